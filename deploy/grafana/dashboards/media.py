"""What is encrypted and how it is known; how the media sounds."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.dashboards.layout import dashboard as layout
from deploy.grafana.dashboards.layout import lines, number
from deploy.grafana.dashboards.queries import (
    DRIVER_NODE,
    JOB,
    RANGE,
    increase,
    node,
    quantile,
    rate,
)

ENCRYPTED = f'{JOB},verdict="encrypted"'
LEGS = "pbxctl_media_legs_total"
ATTESTATION = "pbxctl_attestation_seconds"


def dashboard() -> Dashboard:
    return layout(
        "pbxctl-media",
        "pbxctl · Media security",
        "Which share of the media is encrypted, by what, and how that is known.",
        (
            number(
                "Encrypted",
                "Share of the legs attested in the time shown.",
                f"sum(increase({LEGS}{{{ENCRYPTED}}}[{RANGE}])) / "
                f"sum(increase({LEGS}{{{JOB}}}[{RANGE}]))",
                unit="percentunit",
                decimals=2,
                red_below=1,
            ),
            number(
                "Legs attested",
                "In the time shown.",
                f"sum(increase({LEGS}{{{JOB}}}[{RANGE}]))",
            ),
            number(
                "In clear",
                "Calls told to be unencrypted, in the time shown: pbxctl alarms list.",
                f"sum(increase(pbxctl_media_alarms_total{{{JOB}}}[{RANGE}]))",
                red_from=1,
            ),
            number(
                "Hung up",
                "Calls ended because encryption is required.",
                f"sum(increase(pbxctl_media_hangups_total{{{JOB}}}[{RANGE}]))",
                red_from=1,
            ),
            number(
                "Clear on the wire",
                "Media ports at which an agent saw packets in clear.",
                f'sum(increase(pbxctl_agent_looks_total{{{JOB},wire="clear"}}[{RANGE}]))',
                red_from=1,
            ),
            number(
                "First certificate ends in",
                "The fleet's certificates are renewed when a third of their time is left.",
                f"min(pbxctl_certificate_expires_seconds{{{JOB}}})",
                unit="s",
                red_below=14 * 86400,
            ),
            lines(
                "Encrypted share",
                "Of the legs attested; recorded over 5 minutes.",
                ("job:pbxctl_media_encrypted:ratio_rate5m{" + JOB + "}", "{{job}}"),
                unit="percentunit",
                most=1,
            ),
            lines(
                "Suites",
                "Legs attested per second. untold: encrypted, but the PBX keeps the suite to "
                "itself, as Asterisk does.",
                (rate(LEGS, "suite"), "{{suite}}"),
                unit="cps",
                stacked=True,
            ),
            lines(
                "Verdicts",
                "Legs attested per second. unknown: the PBX could not tell.",
                (rate(LEGS, "verdict"), "{{verdict}}"),
                unit="cps",
                stacked=True,
            ),
            lines(
                "Attested within",
                "From a call's answer to its attestation in the picture; the goal is 0.5 s.",
                (quantile(0.5, ATTESTATION), "half"),
                (quantile(0.99, ATTESTATION), "99 %"),
                unit="s",
            ),
            lines(
                "Seen in packets",
                "Media ports that agents looked at for media.sample_share, by what was on the "
                "wire.",
                (increase("pbxctl_agent_looks_total", "wire"), "{{wire}}"),
                stacked=True,
            ),
            lines(
                "Unanswered, hung up",
                "Questions about media that a node did not answer in time; calls hung up.",
                (
                    increase("pbxctl_attestation_unanswered_total", "node", DRIVER_NODE),
                    "{{node}} unanswered",
                ),
                (
                    increase("pbxctl_media_hangups_total", "node", DRIVER_NODE),
                    "{{node}} hung up",
                ),
            ),
            lines(
                "RTP loss",
                "Share of packets lost on the way to the PBX, of legs that ended.",
                (f"max by (node) ({node('pbxctl_node_rtp_loss_ratio')})", "{{node}}"),
                unit="percentunit",
            ),
            lines(
                "RTP jitter",
                "As the PBX tells it of legs that ended.",
                (f"max by (node) ({node('pbxctl_node_rtp_jitter_seconds')})", "{{node}}"),
                unit="s",
            ),
            lines(
                "Media experience score",
                "Of legs that ended: 88 is G.711 without a flaw, 20 is nothing to understand.",
                (f"min by (node) ({node('pbxctl_node_rtp_mes')})", "{{node}}"),
            ),
            lines(
                "Certificates",
                "Time that is left of each.",
                (
                    f"min by (authority, name) (pbxctl_certificate_expires_seconds{{{JOB}}})",
                    "{{authority}}/{{name}}",
                ),
                unit="s",
            ),
        ),
    )
