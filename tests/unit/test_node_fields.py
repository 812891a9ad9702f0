"""What placement remembers of nodes is what stands in their fields, and how they ramp up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import redis.asyncio as redis

from controller.errors import FleetUnreachable
from controller.fleet.functions import Fleet
from controller.fleet.phones import FleetPhones, NodePhones
from controller.fleet.state import Beat, Lease
from controller.model import CallEnded, CallStarted, Placed, Rejected
from tests.redis_server import RedisServer

POLICY: dict[str, Any] = {
    "spill_above": 0.85,
    "reservation_ms": 5000,
    "silent_ms": 60_000,
    "ramp_ms": 0,
    "admit": {"low": 0.9, "normal": 1, "high": 1},
    "reject_cause": 503,
    "retry_after_s": 4,
    "regions": {"east": []},
    "numbers": {},
}


SETTLING_S = 0.4  # with a reservation_ms of 200


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    with RedisServer() as server:
        fleet = Fleet(redis.Redis.from_url(server.url), "t")
        await fleet.set_policy(POLICY)
        yield fleet
        await fleet.close()


async def join(fleet: Fleet, *names: str) -> dict[str, Lease]:
    leases = {lease.node: lease for lease in await fleet.claim("d", 60_000, names)}
    for name, lease in leases.items():
        facts = {"region": "east", "address": f"{name}:5060", "kind": "asterisk", "weight": 1,
                 "calls_max": 1000, "owner": "d"}  # fmt: skip
        await fleet.register(lease, facts)
        await fleet.client.hset(f"pbx:{{t}}:node:{name}", "hold", "0")
        await fleet.beat(lease, Beat(link=True))
        await fleet.reconcile(lease, [])
    return leases


async def takes_calls(fleet: Fleet, call_id: str = "probe") -> bool:
    """As placement remembers the node, without a beat that would have it read anew."""
    return isinstance(await fleet.route(call_id, "east", "1", "2", dry=True), Placed)


async def test_every_word_of_a_driver_or_operator_reaches_placement_at_once(fleet: Fleet) -> None:
    lease = (await join(fleet, "a"))["a"]
    assert await takes_calls(fleet)
    await fleet.beat(lease, Beat(link=True, sip=False))
    assert not await takes_calls(fleet)
    await fleet.beat(lease, Beat(link=True, sip=True, channels=50, channels_max=50))
    assert not await takes_calls(fleet)
    await fleet.beat(lease, Beat(link=True, channels=7))
    assert await takes_calls(fleet)
    await fleet.want("a", "draining")
    assert not await takes_calls(fleet)
    await fleet.want("a", "active")
    assert await takes_calls(fleet)
    await fleet.beat(lease, Beat(link=True, calls_max=1))
    await fleet.events(lease, [CallStarted("1", "")])
    assert not await takes_calls(fleet)
    await fleet.events(lease, [CallEnded("1")])
    assert await takes_calls(fleet)
    await fleet.beat(lease, Beat(link=False))
    assert not await takes_calls(fleet)
    await fleet.beat(lease, Beat(link=True))
    await fleet.reconcile(lease, [])
    assert await takes_calls(fleet)
    await fleet.claim("d", 1, ["a"])
    await asyncio.sleep(0.01)  # d is gone without a word
    await fleet.claim("e", 60_000, ["a"])
    assert not await takes_calls(fleet)


async def test_a_node_that_moves_or_goes_is_in_no_order(fleet: Fleet) -> None:
    leases = await join(fleet, "a", "b")
    await fleet.set_policy(POLICY | {"regions": {"east": [], "west": []}})
    moved = {"region": "west", "address": "a:5060", "kind": "asterisk", "weight": 1,
             "calls_max": 1000, "owner": "d"}  # fmt: skip
    await fleet.register(leases["a"], moved)
    east = [await fleet.route(f"e{n}", "east", "1", "2") for n in range(4)]
    assert {v.node for v in east if isinstance(v, Placed)} == {"b"}
    west = await fleet.route("w", "west", "1", "2")
    assert isinstance(west, Placed) and west.node == "a"
    await fleet.forget(["b"])
    assert not await takes_calls(fleet, "e9")


async def test_a_limit_that_left_the_config_is_none(fleet: Fleet) -> None:
    lease = (await join(fleet, "a"))["a"]
    facts = {"region": "east", "address": "a:5060", "kind": "asterisk", "weight": 1,
             "calls_max": 1000, "owner": "d"}  # fmt: skip
    await fleet.register(lease, facts | {"rate_max": 0.1, "channels_max": 1})
    assert isinstance(await fleet.route("c1", "east", "1", "2"), Placed)
    assert not await takes_calls(fleet)
    await fleet.register(lease, facts)
    assert await takes_calls(fleet)
    del facts["calls_max"]
    await fleet.register(lease, facts)
    assert not await takes_calls(fleet)


async def test_events_that_broke_off_are_counted_all_the_same(fleet: Fleet) -> None:
    """The first of two words took effect, the second is none: the node is at its limit."""
    lease = (await join(fleet, "a"))["a"]
    await fleet.beat(lease, Beat(link=True, calls_max=1))
    words = [{"k": "started", "id": "1"}, {"k": "unheard of", "id": "2"}]
    with pytest.raises(FleetUnreachable):
        await fleet.call_function("events", lease.node, lease.epoch, msgspec.msgpack.encode(words))
    assert not isinstance(await fleet.route("c", "east", "1", "2"), Placed)


@pytest.mark.parametrize("how", ["flushall", "another server", "library"])
async def test_what_is_remembered_of_other_data_is_not_used(fleet: Fleet, how: str) -> None:
    lease = (await join(fleet, "a"))["a"]
    await fleet.set_policy(POLICY | {"reservation_ms": 200})
    await fleet.beat(lease, Beat(link=True, calls_max=1))
    await fleet.events(lease, [CallStarted("1", "")])
    assert not await takes_calls(fleet)
    # Behind the library's back, as a replica's data would come: the call is over.
    await fleet.client.delete("pbx:{t}:live:a")
    assert not await takes_calls(fleet)
    if how == "library":
        await fleet.load()
    elif how == "another server":
        run_id = await fleet.run_id()
        assert await fleet.client.delete(f"pbx:{{t}}:server:{run_id}")
        await fleet.client.set("pbx:{t}:server", "f" * 40 + " 0")
        settling = await fleet.route("c", "east", "1", "2")
        assert isinstance(settling, Rejected) and settling.blind
        await asyncio.sleep(SETTLING_S)
    else:
        await fleet.client.flushall()
    assert await takes_calls(fleet) is (how != "flushall")


async def test_many_nodes_that_settle_do_not_hide_those_that_do_not(fleet: Fleet) -> None:
    """New nodes are empty, and so in front of those that have calls."""
    names = [f"new{n}" for n in range(40)]
    leases = await join(fleet, "old", *names)
    await fleet.events(leases["old"], [CallStarted(str(n), "") for n in range(10)])
    for name in names:
        await fleet.client.hset(f"pbx:{{t}}:node:{name}", "hold", str(2**50))
        await fleet.beat(leases[name], Beat(link=True))
    placed = [await fleet.route(f"c{n}", "east", "1", "2") for n in range(3)]
    assert [v.node for v in placed if isinstance(v, Placed)] == ["old"] * 3
    assert "next" not in placed[0].reason
    now_ms = (await fleet.presence()).now_ms
    for name in names:  # the last word of each is from before its hold ends
        await fleet.client.hset(f"pbx:{{t}}:node:{name}", "hold", str(now_ms + 300))
        await fleet.beat(leases[name], Beat(link=True))
    await asyncio.sleep(0.4)
    await fleet.beat(leases["old"], Beat(link=False))
    settled = [await fleet.route(f"d{n}", "east", "1", "2") for n in range(9)]
    assert len({v.node for v in settled if isinstance(v, Placed)}) > 1


async def test_what_cannot_be_read_is_said_and_hides_nothing_else(fleet: Fleet) -> None:
    """Another version, or a seized node, wrote it: no role may end by it."""
    lease = (await join(fleet, "a"))["a"]
    phones, there = FleetPhones(fleet), NodePhones({"east": 1})
    await phones.acknowledge("a", there)
    await fleet.write_hash("phoneack", "b", b"{")
    await fleet.write_hash("phoneack", "c\xff", b"\xff")
    assert await phones.acknowledged() == {"a": there}
    await fleet.events(lease, [CallStarted("1", "")])
    await fleet.client.hset("pbx:{t}:live:a", "2", "other")
    await fleet.client.set("pbx:{t}:call:other", msgspec.msgpack.encode(["no", "record"]))
    assert [call.pbx_id for call in await fleet.calls("a")] == ["1"]
    await fleet.client.lpush("pbx:{t}:alarms", b"\xc1")
    assert await fleet.alarms() == []
    await fleet.write_hash("node:a", "want", b"resting")
    await fleet.beat(lease, Beat(link=True))
    with pytest.raises(FleetUnreachable, match="cannot be read"):
        await fleet.nodes()


async def test_a_full_host_sends_calls_to_the_other_node(fleet: Fleet) -> None:
    await join(fleet, "a", "b")
    for _ in range(8):  # smoothed over 3 s
        await fleet.host_report("a", 1.0, 9.0)
    verdicts = [await fleet.route(f"c{n}", "east", "1", "2") for n in range(20)]
    assert {v.node for v in verdicts if isinstance(v, Placed)} == {"b"}


async def test_nodes_that_come_back_together_are_measured_by_the_steady_one(fleet: Fleet) -> None:
    """Two empty nodes in their ramp beside a loaded one that is not: neither gets many more
    arrivals than that one, so it still takes nearly a third. By load alone it would get none."""
    leases = await join(fleet, "a", "b", "steady")
    await fleet.events(leases["steady"], [CallStarted(f"s{n}", "") for n in range(800)])
    await fleet.load()  # the arrival rates are forgotten with the library: these calls are old
    await fleet.set_policy(POLICY | {"ramp_ms": 3_600_000})
    for name in ("a", "b"):
        await fleet.want(name, "draining")
        await fleet.want(name, "active")
    await fleet.client.hset("pbx:{t}:node:steady", "since", "0")
    await fleet.beat(leases["steady"], Beat(link=True))
    got: Counter[str] = Counter()
    for n in range(90):
        verdict = await fleet.route(f"c{n}", "east", "1", "2")
        assert isinstance(verdict, Placed)
        got[verdict.node] += 1
    assert got["steady"] >= 20, got
    assert min(got["a"], got["b"]) >= 15, got
