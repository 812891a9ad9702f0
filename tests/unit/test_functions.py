"""The library in Redis, question by question, on a real redis-server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis.asyncio as redis

from controller.errors import FleetUnreachable, StaleEpoch
from controller.fleet.functions import Fleet
from controller.fleet.state import Beat, Lease, NodeView
from controller.model import (
    CallEnded,
    CallStarted,
    CallTruth,
    NodeEvent,
    NodeState,
    Placed,
    Rejected,
)
from tests.redis_server import RedisServer

POLICY: dict[str, Any] = {
    "spill_above": 0.8,
    "reservation_ms": 1000,
    "silent_ms": 1500,
    "ramp_ms": 0,
    "admit": {"low": 0.5, "normal": 0.8, "high": 1},
    "reject_cause": 480,
    "retry_after_s": 3,
    "regions": {"east": ["west"], "west": []},
    "numbers": {
        "4": {"service": "ivr", "regions": [], "priority": "normal"},
        "400": {"service": "queue", "regions": ["west", "east"], "priority": "high"},
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
async def fleet(server: RedisServer) -> AsyncIterator[Fleet]:
    door = Fleet(redis.Redis.from_url(server.url), "unit")
    await door.client.flushall()
    await door.set_policy(POLICY)
    yield door
    await door.close()


async def settle(fleet: Fleet) -> None:
    """Ends the hold that fresh data puts on its nodes."""
    for view in await fleet.nodes():
        await fleet.client.hset(f"pbx:{{{fleet.name}}}:node:{view.name}", "hold", "0")


async def add(fleet: Fleet, name: str, region: str = "east", **facts: Any) -> Lease:
    lease = (await fleet.claim(f"driver of {name}", 60_000, [name]))[0]
    told = {
        "region": region, "address": f"{name}:5060", "kind": "asterisk", "weight": 1,
        "calls_max": 10, "owner": "test",
    }  # fmt: skip
    await fleet.register(lease, told | facts)
    await fleet.beat(lease, Beat(True))
    await fleet.reconcile(lease, [])
    await settle(fleet)
    await fleet.beat(lease, Beat(True))
    return lease


async def place(
    fleet: Fleet, call_id: str, region: str = "east", callee: str = "1", **more: Any
) -> Placed:
    verdict = await fleet.route(call_id, region, "100", callee, **more)
    assert isinstance(verdict, Placed), verdict
    return verdict


async def view(fleet: Fleet, name: str) -> NodeView:
    return next(v for v in await fleet.nodes() if v.name == name)


async def test_calls_spread_by_load(fleet: Fleet) -> None:
    await add(fleet, "e1")
    await add(fleet, "e2", calls_max=20)
    nodes = [(await place(fleet, f"c{i}")).node for i in range(15)]
    assert nodes.count("e2") == pytest.approx(10, abs=1)


async def test_weight_is_a_share(fleet: Fleet) -> None:
    await add(fleet, "e1", calls_max=100)
    await add(fleet, "e2", calls_max=100, weight=3)
    nodes = [(await place(fleet, f"c{i}")).node for i in range(40)]
    assert nodes.count("e2") == pytest.approx(30, abs=1)


async def test_a_pressed_region_spills_over_and_says_so(fleet: Fleet) -> None:
    await add(fleet, "e1")
    await add(fleet, "w1", "west")
    before = await fleet.stats()
    verdicts = [await place(fleet, f"c{i}", priority="high") for i in range(12)]
    assert [v.node for v in verdicts].count("w1") == pytest.approx(4, abs=1)
    assert "spilled from east" in next(v for v in verdicts if v.node == "w1").reason
    stats = await fleet.stats()
    counted = {name: stats[name] - before.get(name, 0) for name in stats}
    assert counted["place:east"] + counted["spill:west"] == 12
    assert 3 <= counted["spill:west"] <= 5


async def test_a_region_without_spill_keeps_its_callers(fleet: Fleet) -> None:
    await add(fleet, "e1")
    verdict = await fleet.route("c", "west", "1", "2")
    assert isinstance(verdict, Rejected)
    assert (verdict.cause, verdict.retry_after_s) == (480, 3)
    assert "west" in verdict.reason


async def test_a_picture_that_knows_nothing_says_so(fleet: Fleet) -> None:
    """Full nodes are a refusal; no fit node at all sends the edge to its own list."""
    lease = await add(fleet, "e1", calls_max=1)
    first = await place(fleet, "c1")
    full = await fleet.route("c2", "east", "1", "1")
    assert isinstance(full, Rejected) and not full.blind
    refused = await fleet.route("c1", "east", "1", "1", failed=first.placement)
    assert isinstance(refused, Rejected) and not refused.blind
    await fleet.beat(lease, Beat(False))
    empty = await fleet.route("c3", "east", "1", "1")
    assert isinstance(empty, Rejected) and empty.blind
    await fleet.client.flushall()
    unknown = await fleet.route("c3", "east", "1", "1")
    assert isinstance(unknown, Rejected) and unknown.blind


async def test_the_longest_prefix_decides(fleet: Fleet) -> None:
    await add(fleet, "e1")
    await add(fleet, "w1", "west")
    queue = await place(fleet, "a", callee="4001")
    assert (queue.node, queue.service) == ("w1", "queue")
    ivr = await place(fleet, "b", callee="+41")
    assert (ivr.node, ivr.service) == ("e1", "")
    assert (await place(fleet, "c", callee="41")).service == "ivr"
    assert (await place(fleet, "d", callee="4001", priority="-")).node == "w1"


async def test_priorities_fill_their_share_of_a_node(fleet: Fleet) -> None:
    await add(fleet, "e1")
    for priority, total in (("low", 5), ("normal", 8), ("high", 10)):
        placed = 0
        while isinstance(
            await fleet.route(f"{priority}{placed}", "east", "1", "1", priority), Placed
        ):
            placed += 1
        node = await view(fleet, "e1")
        assert node.reserved == total
    assert "full" in (await fleet.route("more", "east", "1", "1", "high")).reason


async def test_asked_again_it_is_the_same_answer(fleet: Fleet) -> None:
    await add(fleet, "e1")
    await add(fleet, "e2")
    first = await place(fleet, "same")
    assert await place(fleet, "same") == first
    assert (await view(fleet, first.node)).reserved == 1


async def test_a_refused_call_goes_elsewhere_once(fleet: Fleet) -> None:
    await add(fleet, "e1")
    await add(fleet, "e2")
    first = await place(fleet, "c")
    second = await place(fleet, "c", failed=first.placement)
    assert second.node != first.node
    assert await place(fleet, "c", failed=first.placement) == second
    assert (await view(fleet, first.node)).reserved == 0
    third = await fleet.route("c", "east", "100", "1", failed=second.placement)
    assert isinstance(third, Rejected)


async def test_a_placement_that_never_shows_is_given_back(fleet: Fleet) -> None:
    await add(fleet, "e1", calls_max=1)
    await place(fleet, "ghost")
    assert isinstance(await fleet.route("next", "east", "1", "1"), Rejected)
    await asyncio.sleep(1.15)
    assert (await view(fleet, "e1")).reserved == 0


async def test_a_silent_node_gets_nothing(fleet: Fleet) -> None:
    lease = await add(fleet, "e1")
    await fleet.beat(lease, Beat(True, silence_ms=1400))
    await place(fleet, "a")
    await asyncio.sleep(1.6)
    assert isinstance(await fleet.route("b", "east", "1", "1"), Rejected)
    assert (await view(fleet, "e1")).state is NodeState.DOWN
    await fleet.beat(lease, Beat(True))
    await place(fleet, "c")


@pytest.mark.parametrize(
    ("beat", "reason"),
    [(Beat(False), "down"), (Beat(True, sip=False), "signalling silent"),
     (Beat(True, in_step=False), "not in step")],
)  # fmt: skip
async def test_a_node_that_is_not_fit_gets_nothing(fleet: Fleet, beat: Beat, reason: str) -> None:
    lease = await add(fleet, "e1")
    await fleet.beat(lease, beat)
    assert isinstance(await fleet.route("a", "east", "1", "1"), Rejected)
    assert (await view(fleet, "e1")).reason == reason


@pytest.mark.parametrize("want", ["draining", "standby", "ejected"])
async def test_the_operators_word_counts(fleet: Fleet, want: str) -> None:
    await add(fleet, "e1")
    assert await fleet.want("e1", want) == "active"
    assert isinstance(await fleet.route("a", "east", "1", "1"), Rejected)
    assert (await view(fleet, "e1")).state == want
    assert await fleet.want("e1", "active") == want
    await place(fleet, "b")
    assert await fleet.want("nobody", "active") is None


async def test_a_node_that_came_back_is_not_run_over(fleet: Fleet) -> None:
    """Idle among busy peers it looks best to every call, and may still not take them all."""
    await fleet.set_policy(POLICY | {"ramp_ms": 30_000})
    busy = [await add(fleet, f"e{i}", calls_max=100) for i in range(3)]
    for number, lease in enumerate(busy):
        await fleet.client.hset(f"pbx:{{unit}}:node:{lease.node}", "since", "0")
        await fleet.reconcile(lease, [CallTruth(f"{number}-{i}") for i in range(70)])
    await add(fleet, "back", calls_max=100)
    nodes = []
    for i in range(60):
        nodes.append((await place(fleet, f"c{i}")).node)
        await asyncio.sleep(0.02)
    assert 3 <= nodes.count("back") <= 30, nodes.count("back")


async def test_a_dry_run_leaves_no_trace(fleet: Fleet) -> None:
    await add(fleet, "e1")
    before = sorted(await fleet.client.keys())
    verdict = await fleet.route("dry", "east", "1", "1", dry=True)
    assert isinstance(verdict, Placed)
    assert sorted(await fleet.client.keys()) == before
    assert (await view(fleet, "e1")).reserved == 0


HOSTILE = ["\r\nX: 1", "\0", "\u2028", "}{:*", "a" * 5000, "\x1b[2J", "%0A", "'; return 1", ""]


@pytest.mark.parametrize("text", HOSTILE)
async def test_text_from_sip_is_data(fleet: Fleet, text: str) -> None:
    lease = await add(fleet, "e1")
    verdict = await fleet.route(f"id{text}", "east", text, text)
    assert isinstance(verdict, Placed)
    record = await fleet.call(f"id{text}")
    assert record is not None
    assert all(c.isprintable() for c in record.caller + record.callee + record.call_id)
    assert len(record.caller) <= 128
    await fleet.events(lease, [CallStarted(f"pbx{text}", text, text, text)])
    (live,) = await fleet.calls("e1")
    assert live.state == "live"
    assert all(c.isprintable() for c in live.caller + live.callee + live.call_id)
    assert isinstance(await fleet.route(text, text, text, text, text, text), Placed | Rejected)


async def test_edges_are_told_in_a_line_what_others_are_told_in_a_list(fleet: Fleet) -> None:
    lease = await add(fleet, "e1", calls_max=1)
    ask = (1, "pbx:{unit}", "c", "east", "1", "4001|x", "high")
    placed = (await fleet.client.fcall("place", *ask)).decode().split("|", 7)
    assert placed[:3] == ["place", "e1", "e1:5060"]
    assert [part.decode() for part in await fleet.client.fcall("route", *ask)] == placed
    more = (1, "pbx:{unit}", "d", "east", "1", "4001|x", "high")
    rejected = (await fleet.client.fcall("place", *more)).decode().split("|", 7)
    assert rejected[:7] == ["reject", "", "", "", "480", "3", ""]
    assert [part.decode() for part in await fleet.client.fcall("route", *more)] == rejected
    await fleet.beat(lease, Beat(False))
    blind = (await fleet.client.fcall("place", *more)).decode()
    assert blind.startswith("blind||||480|3||")


async def test_bytes_that_are_no_text_are_data_too(fleet: Fleet) -> None:
    await add(fleet, "e1")
    reply = await fleet.client.fcall(
        "place", 1, "pbx:{unit}", b"\xff\xfe", b"east", b"\x80", b"\xc3(", b"", b""
    )
    verdict, _, _, placement, *_ = reply.decode().split("|")
    assert verdict == "place"
    record = await fleet.call(placement)
    assert record is not None
    assert record.caller == "?"


async def test_drivers_share_the_nodes_evenly(fleet: Fleet) -> None:
    names = [f"n{i}" for i in range(9)]
    assert len(await fleet.claim("a", 500, names)) == 9
    assert len(await fleet.claim("b", 500, names)) == 0
    assert len(await fleet.claim("a", 500, names)) == 5
    second = await fleet.claim("b", 500, names)
    assert len(second) == 4
    first = await fleet.claim("a", 500, names)
    assert not {lease.node for lease in first} & {lease.node for lease in second}
    await fleet.release("b", names)
    assert len(await fleet.claim("a", 500, names)) == 9


async def test_a_dead_drivers_nodes_go_to_the_living(fleet: Fleet) -> None:
    await fleet.claim("dead", 300, ["n1", "n2"])
    assert await fleet.claim("alive", 300, ["n1", "n2"]) == []
    deadline = time.monotonic() + 2
    while len(taken := await fleet.claim("alive", 300, ["n1", "n2"])) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    with pytest.raises(StaleEpoch):
        await fleet.take(Lease("n1", "1"))
    assert await fleet.take(taken[0]) is None


async def test_a_node_handed_over_in_order_is_placed_on_meanwhile(fleet: Fleet) -> None:
    old = await add(fleet, "e1")
    await place(fleet, "c1")
    await fleet.claim("other", 60_000, [])
    assert await fleet.release("driver of e1", ["e1"]) == 1
    # Until it is taken its last driver's word counts, and is heard.
    await fleet.events(old, [CallStarted("p1"), CallStarted("p2")])
    assert (await view(fleet, "e1")).state is NodeState.ACTIVE

    new = (await fleet.claim("other", 60_000, ["e1"]))[0]
    seen = await view(fleet, "e1")
    assert (seen.state, seen.calls, seen.reserved, seen.driver) == (NodeState.ACTIVE, 2, 1, "other")
    assert isinstance(await fleet.route("c2", "east", "100", "1"), Placed)
    with pytest.raises(StaleEpoch):
        await fleet.events(old, [CallStarted("p3")])
    # The taker says nothing: the node is silent from its last driver's word on.
    await asyncio.sleep(POLICY["silent_ms"] / 1000 + 0.05)
    verdict = await fleet.route("c3", "east", "100", "1")
    assert isinstance(verdict, Rejected)
    assert verdict.blind
    await fleet.reconcile(new, [CallTruth("p1"), CallTruth("p2")])
    await fleet.beat(new, Beat(True))
    assert (await view(fleet, "e1")).calls == 2


async def test_a_node_handed_over_late_or_lost_waits_for_a_comparison(fleet: Fleet) -> None:
    await add(fleet, "e1")
    await fleet.release("driver of e1", ["e1"])
    await asyncio.sleep(POLICY["silent_ms"] / 1000 + 0.05)
    late = (await fleet.claim("other", 100, ["e1"]))[0]
    await fleet.beat(late, Beat(True))
    assert (await view(fleet, "e1")).reason == "not in step"
    await fleet.reconcile(late, [])
    assert (await view(fleet, "e1")).reason == ""
    await asyncio.sleep(0.15)  # nobody released it: its driver died
    await fleet.claim("third", 60_000, ["e1"])
    assert (await view(fleet, "e1")).reason == "not in step"


async def test_one_steward_leads(fleet: Fleet) -> None:
    epoch = await fleet.lead("steward", "a", 200)
    assert epoch
    assert await fleet.lead("steward", "b", 200) is None
    assert await fleet.lead("steward", "a", 200) == epoch
    await asyncio.sleep(0.25)
    later = await fleet.lead("steward", "b", 200)
    assert later
    assert int(later) > int(epoch)


async def test_a_storm_of_events_holds_no_placement_up(fleet: Fleet) -> None:
    """As many as a driver keeps while it cannot write them."""
    lease = await add(fleet, "e1")
    storm: list[NodeEvent] = []
    for n in range(25_000):
        storm += [CallStarted(str(n), "", "100", "200"), CallEnded(str(n), 16)]
    await fleet.client.slowlog_reset()
    await fleet.client.config_set("slowlog-log-slower-than", 100_000)
    await fleet.events(lease, [*storm, CallStarted("last")])
    assert not await fleet.client.slowlog_get()
    assert (await view(fleet, "e1")).calls == 1


async def test_a_repeatable_command_is_taken_again_another_is_not(fleet: Fleet) -> None:
    old = await add(fleet, "e1")
    await fleet.command("e1", "again", b"1", True)
    await fleet.command("e1", "once", b"2", False)
    await fleet.command("e1", "once", b"2", False)
    taken = [await fleet.take(old), await fleet.take(old)]  # the first answer was lost
    await fleet.release("driver of e1", ["e1"])
    new = (await fleet.claim("other", 60_000, ["e1"]))[0]
    taken.append(await fleet.take(new))
    assert [c.id for c in taken if c] == ["again", "again", "again"]
    with pytest.raises(StaleEpoch):
        await fleet.done(old, "again", b"late")
    await fleet.done(new, "again", b"done")
    assert await fleet.result("again", 1) == b"done"
    once = await fleet.take(new)
    assert once is not None
    assert once.id == "once"
    assert (await fleet.beat(new, Beat(True)))[1] == 1
    assert await fleet.take(new) is None
    assert b"unknown" in (await fleet.result("once", 1) or b"")
    assert (await fleet.beat(new, Beat(True)))[1] == 0


async def test_a_lost_command_does_not_come_back_when_nobody_waits_for_it(fleet: Fleet) -> None:
    """He who was told "unknown" may have wanted otherwise since."""
    lease = await add(fleet, "e1")
    await fleet.command("e1", "drain", b"1", True)
    await fleet.command("e1", "resume", b"2", True)
    assert await fleet.take(lease)
    asked_ms = int(await fleet.client.hget("pbx:{unit}:command:drain", "asked") or 0)
    await fleet.client.hset("pbx:{unit}:command:drain", "asked", str(asked_ms - 7000))
    command = await fleet.take(lease)
    assert command is not None
    assert command.id == "resume"
    assert b"unknown" in (await fleet.result("drain", 1) or b"")


async def test_an_outbound_call_nobody_waits_for_is_dropped(fleet: Fleet) -> None:
    lease = await add(fleet, "e1")
    await fleet.command("e1", "late", b"1", False)
    assert await fleet.client.pttl("pbx:{unit}:command:late") <= 15_000
    await fleet.client.pexpire("pbx:{unit}:command:late", 1)
    await asyncio.sleep(0.01)
    assert await fleet.take(lease) is None


async def test_redis_away_is_said_plainly() -> None:
    door = Fleet(redis.Redis.from_url("redis://127.0.0.1:1"), "unit")
    with pytest.raises(FleetUnreachable) as caught:
        await door.nodes()
    assert "pbxctl doctor" in caught.value.hint
    await door.close()


async def test_calls_with_one_call_id_have_a_place_each(fleet: Fleet) -> None:
    """Else a caller could have as many on one node as he likes, over its limit."""
    lease = await add(fleet, "e1", calls_max=5)
    verdicts = [await fleet.route(f"c@x;tag={n}", "east", "1", "2") for n in range(9)]
    placed = [v for v in verdicts if isinstance(v, Placed)]
    assert len(placed) == len({v.placement for v in placed}) == 4  # of normal priority
    assert await fleet.route("c@x;tag=2", "east", "1", "2") == placed[2]
    for number, each in enumerate(placed):
        await fleet.events(lease, [CallStarted(f"p{number}", each.placement)])
        assert await fleet.route(f"c@x;tag={number}", "east", "1", "2") == each
    assert isinstance(await fleet.route("c@x;tag=9", "east", "1", "2"), Rejected)
    assert (await view(fleet, "e1")).calls == 4
    first, other = await fleet.call("c@x"), await fleet.call(placed[1].placement)
    assert first and other
    assert (first.call_id, first.placement) == ("c@x", placed[0].placement)
    assert (other.call_id, other.placement) == ("c@x", placed[1].placement)


async def test_a_node_that_refuses_one_of_two_calls_with_one_call_id_keeps_the_other(
    fleet: Fleet,
) -> None:
    await add(fleet, "e1", calls_max=5)
    first = await fleet.route("c@x;tag=a", "east", "1", "2")
    second = await fleet.route("c@x;tag=b", "east", "1", "2")
    assert isinstance(first, Placed)
    assert isinstance(second, Placed)
    await add(fleet, "e2", calls_max=5)
    moved = await fleet.route("c@x;tag=b", "east", "1", "2", failed=second.placement)
    assert isinstance(moved, Placed)
    assert moved.node == "e2"
    assert await fleet.route("c@x;tag=a", "east", "1", "2") == first
    assert await fleet.route("c@x;tag=b", "east", "1", "2", dry=True) == moved
