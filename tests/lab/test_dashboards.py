"""Every query of the committed dashboards, asked of a Prometheus that watched a real fleet."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.observed import DASHBOARDS, EDGE, FROZEN, KILLED, RECORDED, Observed, observed

pytestmark = pytest.mark.lab

PANELS = [
    pytest.param(panel["type"] == "stat", target["expr"], id=f"{name}-{panel['title']}-{n}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for n, target in enumerate(panel["targets"])
]
VARIABLES = {
    variable["query"]
    for dashboard in DASHBOARDS.values()
    for variable in dashboard["templating"]["list"]
    if variable["type"] == "query"
}


@pytest.fixture(scope="module")
def run() -> Iterator[Observed]:
    with observed() as seen:
        yield seen


@pytest.mark.parametrize(("instant", "expr"), PANELS)
def test_a_panel_has_an_answer(run: Observed, instant: bool, expr: str) -> None:
    for node in (".*", RECORDED) if "$node" in expr else (".*",):
        query = run.filled(expr, node)
        found = run.instant(query) if instant else run.over_time(query)
        points = [value for series in found for _, value in series.points]
        assert any(math.isfinite(value) for value in points), f"{query}: {found}"


@pytest.mark.parametrize("query", sorted(VARIABLES))
def test_a_variable_has_values(run: Observed, query: str) -> None:
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert found, query
    values = run.get(f"label/{found[2]}/values", **{"match[]": run.filled(found[1])})
    expected = {
        "job": {"pbxctl"},
        "region": {"east", "south", "west"},
        "node": {EDGE, KILLED, RECORDED, FROZEN},
    }
    assert set(values) == expected[found[2]]


def panel(dashboard: str, title: str) -> str:
    (found,) = (p for p in DASHBOARDS[dashboard]["panels"] if p["title"] == title)
    return str(found["targets"][0]["expr"])


def value(run: Observed, expr: str) -> float:
    ((_, answer),) = (point for series in run.instant(run.filled(expr)) for point in series.points)
    return answer


def test_the_numbers_are_the_runs(run: Observed) -> None:
    """Not only something, but what the edge did and what the nodes suffered."""
    total = "sum(pbxctl_placements_total) + sum(pbxctl_spills_total)"
    # A call sent to a node that has just died is placed once more.
    assert run.placed <= value(run, total) <= run.placed + 3
    assert value(run, "sum(pbxctl_spills_total)") > 0
    assert value(run, panel("pbxctl-fleet", "Over the limit")) == 0
    assert value(run, panel("pbxctl-fleet", "Refused")) == 0
    assert 0 < value(run, panel("pbxctl-fleet", "Noticed within")) <= 3
    assert value(run, panel("pbxctl-media", "Encrypted")) == 1
    assert value(run, panel("pbxctl-control", "Roles down")) == 0
    assert value(run, 'sum(pbxctl_recordings_ended_total{outcome="complete"})') > 0
    down = 'max_over_time(pbxctl_node_state{state="down"}[$__range])'
    found = {s.labels["node"]: s.points[0][1] for s in run.instant(run.filled(down))}
    assert found == {EDGE: 0, KILLED: 1, RECORDED: 0, FROZEN: 1}
    calls = run.over_time(run.filled(panel("pbxctl-fleet", "Calls")))
    assert {s.labels["node"] for s in calls if max(v for _, v in s.points) > 0} == {
        EDGE, KILLED, RECORDED, FROZEN,
    }  # fmt: skip


def test_prometheus_can_evaluate_every_rule(run: Observed) -> None:
    groups: list[dict[str, Any]] = run.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert not [rule["name"] for rule in rules if rule["health"] != "ok"]
