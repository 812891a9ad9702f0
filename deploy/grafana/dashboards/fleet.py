"""The fleet as a whole: does it take calls, has it room, does it notice what dies?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.dashboards.layout import dashboard as layout
from deploy.grafana.dashboards.layout import lines, number
from deploy.grafana.dashboards.queries import (
    JOB,
    RANGE,
    REGION,
    fleet_rate,
    increase,
    node,
    quantile,
)

CALLS = f"{node('pbxctl_node_calls')} + {node('pbxctl_node_calls_reserved')}"
#: of nodes that may take calls at all
FIT = node("pbxctl_node_state", ',state=~"active|joining"')
ROOM = f"job_region:pbxctl_room:ratio{{{REGION}}}"
PLACED = fleet_rate("pbxctl_placements_total", "job")
SPILLED = fleet_rate("pbxctl_spills_total", "job")
REFUSED = fleet_rate("pbxctl_rejects_total", "reason", JOB)


def dashboard() -> Dashboard:
    return layout(
        "pbxctl-fleet",
        "pbxctl · Fleet",
        "Load, calls, placements and what was noticed, of all nodes.",
        (
            number(
                "Nodes that take calls",
                "Active, or joining and ramping up.",
                f"sum({FIT})",
                red_below=1,
            ),
            number("Calls now", "Live and placed.", f"sum({CALLS})"),
            number(
                "Room",
                "Free share of the limits of the nodes that take calls, in the fullest region.",
                f"min({ROOM})",
                unit="percentunit",
                red_below=0.15,
            ),
            number(
                "Refused",
                "Calls that no node could take, in the time shown.",
                f"sum(max without (instance) (increase(pbxctl_rejects_total{{{JOB}}}[{RANGE}])))",
                red_from=1,
            ),
            number(
                "Over the limit",
                "Nodes with more calls than their limit: there is never one.",
                f"count(({CALLS}) > {node('pbxctl_node_calls_limit')}) or vector(0)",
                red_from=1,
            ),
            number(
                "Noticed within",
                "From the last sign of life of a node that died to its being out of placement, "
                "the slowest in the time shown.",
                quantile(1, "pbxctl_node_detection_seconds", window=RANGE),
                unit="s",
                decimals=1,
                red_from=3,
            ),
            lines(
                "Nodes by state",
                "Only active and joining nodes get calls.",
                (f"sum by (state) ({node('pbxctl_node_state')})", "{{state}}"),
                stacked=True,
            ),
            lines(
                "Calls",
                "Live calls of each node, by its own list.",
                (f"sum by (node) ({node('pbxctl_node_calls')})", "{{node}}"),
                stacked=True,
            ),
            lines(
                "Load",
                "The fullest of calls, channels, arrivals and CPU, over the node's weight. A node "
                "that comes back with calls on it is over 100 % until its share has grown.",
                (f"max by (node) ({node('pbxctl_node_load_ratio')})", "{{node}}"),
                unit="percentunit",
                most=1.2,
            ),
            lines(
                "Arrivals",
                "New calls per second, smoothed over 5 s.",
                (f"sum by (region) ({node('pbxctl_node_arrivals_per_second')})", "{{region}}"),
                unit="cps",
                stacked=True,
            ),
            lines(
                "Placements",
                "Calls placed per second, by the region that took them.",
                (fleet_rate("pbxctl_placements_total", "region"), "{{region}}"),
                (fleet_rate("pbxctl_spills_total", "region"), "{{region}}, from another region"),
                unit="cps",
                stacked=True,
            ),
            lines(
                "Spill-over",
                "Share of placements that went to a further region than the first.",
                (f"{SPILLED} / ({PLACED} + {SPILLED})", "{{job}}"),
                unit="percentunit",
                most=1,
            ),
            lines(
                "Refused, by reason",
                "phone: the phone called is registered on a node that cannot take the call.",
                (REFUSED, "{{reason}}"),
                unit="cps",
                stacked=True,
            ),
            lines(
                "Room by region",
                "Free share of the limits of the nodes that take calls.",
                (ROOM, "{{region}}"),
                unit="percentunit",
            ),
            lines(
                "Noticed within, by reason",
                "From a node's last sign of life to the leader's seeing it out of placement. "
                "down: its link closed. The leader looks every 0.5 s.",
                *(
                    (
                        quantile(share, "pbxctl_node_detection_seconds", "reason", RANGE),
                        f"{{{{reason}}}}, {name}",
                    )
                    for share, name in ((0.5, "half"), (1, "all"))
                ),
                unit="s",
            ),
            lines(
                "Nodes that went down",
                "Changes to the state down, in the time shown.",
                (
                    increase("pbxctl_node_state_changes_total", "node", f'{JOB},state="down"'),
                    "{{node}}",
                ),
            ),
            lines(
                "CPU",
                "Busy share of the nodes' hosts.",
                (f"max by (node) ({node('pbxctl_node_cpu_ratio')})", "{{node}}"),
                unit="percentunit",
                most=1,
            ),
            lines(
                "Alarms",
                "Raised per second: pbxctl alarms list.",
                (fleet_rate("pbxctl_alarms_total", "kind", JOB), "{{kind}}"),
                stacked=True,
            ),
        ),
    )
