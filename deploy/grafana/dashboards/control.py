"""pbxctl itself: its roles, what they share, how late they are."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.dashboards.layout import dashboard as layout
from deploy.grafana.dashboards.layout import lines, number
from deploy.grafana.dashboards.queries import (
    JOB,
    RANGE,
    RATE,
    fleet,
    increase,
    node,
    quantile,
    rate,
    with_role,
)

LAG = "pbxctl_driver_event_lag_seconds"
ANSWER = "pbxctl_agent_answer_seconds"


def dashboard() -> Dashboard:
    return layout(
        "pbxctl-control",
        "pbxctl · pbxctl itself",
        "The roles, their leases, Redis, drift and how late events are.",
        (
            number(
                "Roles up",
                "Processes that answered the last scrape.",
                f"sum(up{{{JOB}}})",
                red_below=1,
            ),
            number(
                "Roles down",
                "Processes that did not.",
                f"count(up{{{JOB}}} == 0) or vector(0)",
                red_from=1,
            ),
            number(
                "Leader",
                "1 while a steward leads.",
                f"max(pbxctl_leader{{{JOB}}})",
                red_below=1,
            ),
            number(
                "Redis",
                "1 while the picture can be read.",
                f"max(pbxctl_fleet_reachable{{{JOB}}})",
                red_below=1,
            ),
            number(
                "Drift",
                "Calls by which the picture was wrong at the last comparisons.",
                f"sum({node('pbxctl_node_drift_calls')})",
                red_from=1,
            ),
            number(
                "Words lost",
                "Words to Redis that were not answered, in the time shown.",
                f"sum(increase(pbxctl_driver_words_lost_total{{{JOB}}}[{RANGE}]))",
                red_from=1,
            ),
            lines(
                "Roles",
                "Processes by role and version: two versions stand here during an upgrade.",
                (
                    f"count by (role, version) (pbxctl_build_info{{{JOB}}})",
                    "{{role}} {{version}}",
                ),
                stacked=True,
            ),
            lines(
                "Leases",
                "Nodes that each driver holds; together they are all nodes.",
                (f"pbxctl_driver_leases{{{JOB}}}", "{{instance}}"),
                stacked=True,
            ),
            lines(
                "Leader and drivers",
                "Stewards that lead, at most one; drivers that renew their word in Redis.",
                (f"sum by (job) (pbxctl_steward_leads{{{JOB}}})", "leads"),
                (fleet("pbxctl_drivers"), "drivers"),
            ),
            lines(
                "Redis answers within",
                "The questions of one scrape of a gate, all together.",
                (f"pbxctl_fleet_answer_seconds{{{JOB}}}", "{{instance}}"),
                unit="s",
            ),
            lines(
                "Event lag",
                "From taking a batch of events off a link to its being in the picture.",
                (quantile(0.5, LAG), "half"),
                (quantile(0.99, LAG), "99 %"),
                unit="s",
            ),
            lines(
                "Events",
                "Taken from the PBXs per second, by kind.",
                (rate("pbxctl_driver_events_total", "kind"), "{{kind}}"),
                unit="cps",
                stacked=True,
            ),
            lines(
                "Drift by node",
                "Calls by which the live set was wrong when last compared.",
                (f"max by (node) ({node('pbxctl_node_drift_calls')})", "{{node}}"),
            ),
            lines(
                "Lost",
                "Events and words that did not arrive, links that ended, logins refused: in the "
                "time shown.",
                (increase("pbxctl_driver_events_lost_total", "job"), "events"),
                (increase("pbxctl_driver_words_lost_total", "job"), "words to Redis"),
                (increase("pbxctl_driver_links_lost_total", "job"), "links"),
                (increase("pbxctl_driver_login_refused_total", "job"), "logins refused"),
            ),
            lines(
                "Agents' answers",
                "Route questions of dialplans per second. snapshot: Redis was away.",
                (
                    rate("pbxctl_agent_answers_total", "verdict, source"),
                    "{{verdict}} by {{source}}",
                ),
                unit="cps",
                stacked=True,
            ),
            lines(
                "Agents' refusals",
                "Route questions refused for their form, in the time shown.",
                (increase("pbxctl_agent_bad_questions_total", "instance"), "{{instance}}"),
            ),
            lines(
                "Agents answer within",
                "From question to answer; the deadline is agent.deadline_ms.",
                (quantile(0.5, ANSWER), "half"),
                (quantile(0.99, ANSWER), "99 %"),
                unit="s",
            ),
            lines(
                "Agents' snapshots",
                "Age of the picture from which an agent answers while Redis is away.",
                (f"pbxctl_agent_snapshot_age_seconds{{{JOB}}}", "{{instance}}"),
                unit="s",
            ),
            lines(
                "CPU",
                "Seconds of CPU per second, of each process.",
                (
                    with_role(f"rate(process_cpu_seconds_total{{{JOB}}}[{RATE}])"),
                    "{{role}} {{instance}}",
                ),
                unit="percentunit",
            ),
            lines(
                "Memory",
                "Resident, of each process.",
                (
                    with_role(f"process_resident_memory_bytes{{{JOB}}}"),
                    "{{role}} {{instance}}",
                ),
                unit="bytes",
            ),
        ),
    )
