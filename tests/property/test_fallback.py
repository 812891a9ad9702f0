"""The promises of routing/fallback.py, over any order of questions, failures and time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.config import (
    AgentConfig,
    Config,
    NodeConfig,
    PlacementConfig,
    RangeConfig,
    RegionConfig,
)
from controller.fleet.state import NodeView
from controller.model import Kind, NodeState, Placed, Rejected
from controller.routing.fallback import Ask, Fallback, Snapshot, range_of

CONFIG_TEXT = """
fleet: demo
regions: {east: {spill_to: [west]}, west: {}}
nodes:
  e1: {kind: asterisk, region: east, sip: "e1:5060", control: "e1:5038", password_file: pw}
"""
PER_NODE = 4
NAMES = ("e1", "e2", "w1")
REGION = {"e": "east", "w": "west"}
CONFIG = Config(
    fleet="demo",
    nodes={
        n: NodeConfig(
            kind=Kind.ASTERISK,
            region=REGION[n[0]],
            sip=f"{n}:5060",
            control=f"{n}:5038",
            password_file="pw",
        )
        for n in NAMES
    },
    regions={"east": RegionConfig(spill_to=("west",)), "west": RegionConfig()},
    numbers=(RangeConfig(prefix="4"), RangeConfig(prefix="400", regions=("west",))),
    placement=PlacementConfig(reservation_s=5),
    agent=AgentConfig(fallback_calls_per_node=PER_NODE),
)


def node(
    name: str, *, load: float = 0.0, calls: int = 0, calls_max: int = 10, state: str = "active"
) -> NodeView:
    return NodeView(
        name=name, region=REGION[name[0]], address=f"{name}:5060", kind="asterisk", version="22",
        state=NodeState(state), reason="", want="active", load=load, calls=calls, reserved=0,
        calls_max=calls_max, channels=0, channels_max=0, arrivals_per_s=0, cpu=-1, weight=1,
        silent_ms=0, loss=-1, jitter_ms=-1, mes=-1, driver="d", drift=0,
    )  # fmt: skip


views = st.tuples(*(
    st.builds(
        node,
        st.just(name),
        load=st.floats(0, 1),
        calls=st.integers(0, 8),
        calls_max=st.integers(0, 8),
        state=st.sampled_from(["active", "joining", "draining", "ejected", "down", "standby"]),
    )
    for name in NAMES
))  # fmt: skip
# (call, does it name its last answer as failed, seconds since the question before)
questions = st.lists(
    st.tuples(st.integers(0, 12), st.booleans(), st.floats(0, 3)), min_size=1, max_size=60
)


@settings(max_examples=300, deadline=None)
@given(views, questions)
def test_bounded_repeatable_elsewhere(
    nodes: tuple[NodeView, ...], asked: list[tuple[int, bool, float]]
) -> None:
    fallback, snapshot = Fallback(CONFIG), Snapshot(0, nodes)
    by_name = {n.name: n for n in nodes}
    last: dict[int, Placed] = {}
    tried: dict[int, set[str]] = {}
    made: list[tuple[float, str]] = []
    now_s = 0.0
    for call, fails, pause_s in asked:
        now_s += pause_s
        failed = last[call].placement if fails and call in last else ""
        verdict = fallback.decide(Ask(str(call), "east", "1", failed=failed), snapshot, now_s)
        if call in last and not failed:
            assert verdict == last[call]
            continue
        if failed:
            tried.setdefault(call, set()).add(last[call].node)
        if isinstance(verdict, Rejected):
            continue
        chosen = by_name[verdict.node]
        assert chosen.state in ("active", "joining")
        assert verdict.node not in tried.get(call, set())
        last[call] = verdict
        made.append((now_s, verdict.node))
        recent = Counter(n for t, n in made if t > now_s - 5)
        assert recent[verdict.node] <= min(PER_NODE, chosen.calls_max - chosen.calls)
        if chosen.region == "west":  # the caller's own region had nobody
            for other in nodes:
                spent = min(PER_NODE, other.calls_max - other.calls) <= recent[other.name]
                assert (
                    other.region == "west"
                    or other.state not in ("active", "joining")
                    or spent
                    or other.name in tried.get(call, set())
                )


def test_the_least_loaded_first_and_its_share_counts() -> None:
    fallback = Fallback(CONFIG)
    snapshot = Snapshot(0, (node("e1", load=0.1), node("e2", load=0.25)))
    names = [
        verdict.node
        for i in range(4)
        if isinstance(verdict := fallback.decide(Ask(str(i), "east", "1"), snapshot, 0), Placed)
    ]
    assert names == ["e1", "e1", "e2", "e1"]


def test_what_redis_placed_is_repeated_without_redis() -> None:
    fallback = Fallback(CONFIG)
    placed = Placed("e2", "e2:5060", "abc-1", "why", "echo")
    fallback.remember("c", placed)
    snapshot = Snapshot(0, (node("e1"), node("e2")))
    assert fallback.decide(Ask("c", "east", "1"), snapshot, 0) == placed
    other = fallback.decide(Ask("c", "east", "1", failed="abc-1"), snapshot, 0)
    assert isinstance(other, Placed) and other.node == "e1"


def test_without_a_snapshot_only_the_own_node_is_left() -> None:
    fallback = Fallback(CONFIG)
    verdicts = [fallback.decide(Ask(str(i), "east", "1", own="w1"), None, 0) for i in range(6)]
    assert [isinstance(v, Placed) and v.node == "w1" for v in verdicts] == [True] * 4 + [False] * 2
    assert isinstance(fallback.decide(Ask("x", "east", "1"), None, 0), Rejected)


def test_the_number_plan_leads_to_its_regions() -> None:
    snapshot = Snapshot(0, (node("e1"), node("w1", load=0.9)))
    verdict = Fallback(CONFIG).decide(Ask("c", "east", "4001"), snapshot, 0)
    assert isinstance(verdict, Placed) and verdict.node == "w1"
    assert range_of(CONFIG.numbers, "41") == CONFIG.numbers[0]
    assert range_of(CONFIG.numbers, "5") is None
