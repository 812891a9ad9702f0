"""A node's CPU and channels are told once a second or so; placement counts what came since."""

from __future__ import annotations

from collections import Counter

from controller.fleet.functions import Fleet
from controller.fleet.state import Beat, Lease
from controller.model import CallEnded, CallStarted, CallTruth, Placed
from tests.unit.test_node_fields import fleet

__all__ = ["fleet"]

CALLS_MAX = 1000


async def join(fleet: Fleet, name: str, *, calls: int, told: Beat) -> Lease:
    """A node whose list has `calls` calls, and whose first beat in step is `told`."""
    (lease,) = await fleet.claim("d", 60_000, [name])
    facts = {"region": "east", "address": f"{name}:5060", "kind": "asterisk", "weight": 1,
             "calls_max": CALLS_MAX, "owner": "d"}  # fmt: skip
    await fleet.register(lease, facts)
    await fleet.client.hset(f"pbx:{{t}}:node:{name}", "hold", "0")
    await fleet.beat(lease, Beat(link=True))
    await fleet.reconcile(lease, [CallTruth(f"{name}-{n}") for n in range(calls)])
    await fleet.beat(lease, told)
    return lease


async def place(fleet: Fleet, count: int, first: int = 0) -> Counter[str]:
    got: Counter[str] = Counter()
    for n in range(first, first + count):
        verdict = await fleet.route(f"c{n}", "east", "1", "2")
        assert isinstance(verdict, Placed)
        got[verdict.node] += 1
    return got


async def test_the_node_with_the_lower_reading_does_not_get_every_call(fleet: Fleet) -> None:
    """500 calls are half of its CPU: so 50 more make up for a reading that is lower by 0.05."""
    for name, cpu in (("busy", 0.5), ("calm", 0.45)):
        await join(fleet, name, calls=400, told=Beat(link=True, cpu=cpu))
    got = await place(fleet, 100)
    assert 60 <= got["calm"] <= 80, got


async def test_calls_that_end_after_the_reading_make_room(fleet: Fleet) -> None:
    leases = {
        name: await join(fleet, name, calls=400, told=Beat(link=True, cpu=0.6)) for name in "ab"
    }
    await fleet.events(leases["a"], [CallEnded(f"a-{n}") for n in range(30)])
    assert await place(fleet, 25) == {"a": 25}


async def test_what_a_host_does_besides_calls_is_no_calls_price(fleet: Fleet) -> None:
    """A backup takes half of the CPU of a node with one call: its next calls do not fill it."""
    await join(fleet, "backup", calls=1, told=Beat(link=True, cpu=0.5))
    await join(fleet, "loaded", calls=700, told=Beat(link=True, cpu=0.6))
    got = await place(fleet, 20)
    assert got["backup"] == 20, got


async def test_calls_found_on_a_node_are_not_counted_on_top_of_its_reading(fleet: Fleet) -> None:
    (lease,) = await fleet.claim("d", 60_000, ["a"])
    facts = {"region": "east", "address": "a:5060", "kind": "asterisk", "weight": 1,
             "calls_max": CALLS_MAX, "owner": "d"}  # fmt: skip
    await fleet.register(lease, facts)
    await fleet.beat(lease, Beat(link=True, cpu=0.6, channels=1000, channels_max=2000))
    await fleet.reconcile(lease, [CallTruth(f"a-{n}") for n in range(500)])
    for _ in range(2):
        (node,) = await fleet.nodes()
        assert 0.6 <= node.load < 0.65
        await fleet.beat(lease, Beat(link=True, cpu=0.6, channels=1000, channels_max=2000))


async def test_channels_of_calls_that_came_since_the_beat_count(fleet: Fleet) -> None:
    lease = await join(fleet, "a", calls=45, told=Beat(link=True, channels=90, channels_max=100))
    placed = 0
    for n in range(20):
        verdict = await fleet.route(f"c{n}", "east", "1", "2")
        if isinstance(verdict, Placed):
            placed += 1
            await fleet.events(lease, [CallStarted(f"p{n}", verdict.placement)])
    assert placed == 10


async def test_the_agents_word_on_the_host_comes_before_the_pbxs(fleet: Fleet) -> None:
    lease = await join(fleet, "a", calls=0, told=Beat(link=True, cpu=0.8))
    for _ in range(20):
        await fleet.host_report("a", 0.2, 1.0)
        await fleet.beat(lease, Beat(link=True, cpu=0.8))
    (node,) = await fleet.nodes()
    assert node.cpu < 0.25
