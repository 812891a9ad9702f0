"""One node, or a few side by side: what it carries, whether it lives, whether we know it right."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.dashboards.layout import dashboard as layout
from deploy.grafana.dashboards.layout import lines
from deploy.grafana.dashboards.queries import DRIVER_NODE, increase, node, rate


def dashboard() -> Dashboard:
    return layout(
        "pbxctl-node",
        "pbxctl · Node",
        "One node, or a few side by side: choose them above.",
        (
            lines(
                "State",
                "1 for the state that the node is in.",
                (f"max by (node, state) ({node('pbxctl_node_state')}) > 0", "{{node}} {{state}}"),
            ),
            lines(
                "Calls",
                "Live, placed but not shown yet, and the limit, which they never exceed.",
                (node("pbxctl_node_calls"), "{{node}} live"),
                (node("pbxctl_node_calls_reserved"), "{{node}} placed"),
                (node("pbxctl_node_calls_limit"), "{{node}} limit"),
            ),
            lines(
                "Load",
                "What placement goes by: the fullest signal over the weight.",
                (node("pbxctl_node_load_ratio"), "{{node}}"),
                unit="percentunit",
            ),
            lines(
                "Legs",
                "Channels up on the PBX, and its own limit where it has one.",
                (node("pbxctl_node_channels"), "{{node}}"),
                (f"{node('pbxctl_node_channels_limit')} or vector(0)", "{{node}} limit"),
            ),
            lines(
                "Arrivals",
                "New calls per second, smoothed over 5 s.",
                (node("pbxctl_node_arrivals_per_second"), "{{node}}"),
                unit="cps",
            ),
            lines(
                "CPU",
                "Busy share of the host, smoothed over 3 s.",
                (node("pbxctl_node_cpu_ratio"), "{{node}}"),
                unit="percentunit",
                most=1,
            ),
            lines(
                "Last sign of life",
                "A node that is silent for 1.6 s gets no new call.",
                (node("pbxctl_node_silent_seconds"), "{{node}}"),
                unit="s",
            ),
            lines(
                "Control link",
                "1 while a driver's link is up; and links that ended, per second.",
                (f"max by (node) (pbxctl_driver_link_up{{{DRIVER_NODE}}})", "{{node}} up"),
                (rate("pbxctl_driver_links_lost_total", "node", DRIVER_NODE), "{{node}} lost"),
            ),
            lines(
                "Drift",
                "Calls by which the live set was wrong when last compared with the node's list.",
                (node("pbxctl_node_drift_calls"), "{{node}} corrected in Redis"),
                (
                    f"max by (node) (pbxctl_driver_drift_calls{{{DRIVER_NODE}}})",
                    "{{node}} corrected in the driver",
                ),
            ),
            lines(
                "RTP loss",
                "Share of packets lost on the way to the PBX, of legs that ended, recent ones "
                "foremost.",
                (node("pbxctl_node_rtp_loss_ratio"), "{{node}}"),
                unit="percentunit",
            ),
            lines(
                "RTP jitter",
                "As the PBX tells it of legs that ended.",
                (node("pbxctl_node_rtp_jitter_seconds"), "{{node}}"),
                unit="s",
            ),
            lines(
                "Media experience score",
                "Of legs that ended: 88 is G.711 without a flaw, 20 is nothing to understand.",
                (node("pbxctl_node_rtp_mes"), "{{node}}"),
            ),
            lines(
                "Phones",
                "Registered on the node; changes that its file does not have yet; 1 while that "
                "file cannot be brought in step.",
                (node("pbxctl_node_phones_registered"), "{{node}} registered"),
                (node("pbxctl_node_phones_pending_changes"), "{{node}} pending"),
                (node("pbxctl_node_phones_problem"), "{{node}} problem"),
            ),
            lines(
                "Trouble on the link",
                "Events that were dropped or not understood, refused logins and unanswered "
                "questions, in the time shown.",
                (increase("pbxctl_driver_events_lost_total", "node", DRIVER_NODE), "{{node}} lost"),
                (increase("pbxctl_driver_bad_events_total", "node", DRIVER_NODE), "{{node}} bad"),
                (
                    increase("pbxctl_driver_login_refused_total", "node", DRIVER_NODE),
                    "{{node}} login refused",
                ),
                (
                    increase("pbxctl_attestation_unanswered_total", "node", DRIVER_NODE),
                    "{{node}} unanswered",
                ),
            ),
        ),
    )
