"""Reservations are counted in the library's memory; one that is replaced hands them over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import redis.asyncio as redis
from redis.exceptions import ResponseError

from controller.errors import FleetUnreachable
from controller.fleet.functions import Fleet
from controller.fleet.library import library
from controller.fleet.state import Beat
from controller.model import CallEnded, CallStarted, NodeState, Rejected
from tests.redis_server import RedisServer
from tests.unit.test_functions import POLICY, add, fleet, place, server, view

__all__ = ["fleet", "server"]

RESERVED_S = POLICY["reservation_ms"] / 1000
SLOT_S = 0.1  # as 13_reserved.lua has it


async def reserved(fleet: Fleet, node: str = "e1") -> int:
    return (await view(fleet, node)).reserved


async def test_a_library_that_is_replaced_finds_those_that_hold(fleet: Fleet) -> None:
    lease = await add(fleet, "e1", calls_max=5)  # 4 of normal priority
    placed = [await place(fleet, f"c{n}") for n in range(4)]
    await fleet.events(lease, [CallStarted("p0", placed[0].placement, "1", "2")])
    await add(fleet, "e2", calls_max=1)
    await fleet.beat(lease, Beat(True))
    assert (await place(fleet, "c1", failed=placed[1].placement)).node == "e2"

    await fleet.load()
    seen = await view(fleet, "e1"), await view(fleet, "e2")
    assert [(node.calls, node.reserved) for node in seen] == [(1, 2), (0, 1)]
    assert await place(fleet, "c2") == placed[2]
    assert (await place(fleet, "new")).node == "e1"
    assert isinstance(await fleet.route("more", "east", "1", "1"), Rejected)


async def test_they_end_in_a_replaced_library_when_they_would_have(fleet: Fleet) -> None:
    lease = await add(fleet, "e1", calls_max=3)
    await place(fleet, "early")
    await asyncio.sleep(RESERVED_S * 0.6)
    await fleet.beat(lease, Beat(True))
    await place(fleet, "late")
    await fleet.load()
    await asyncio.sleep(RESERVED_S * 0.4 + SLOT_S)
    await fleet.beat(lease, Beat(True))
    assert await reserved(fleet) == 1
    await asyncio.sleep(RESERVED_S * 0.6)
    await fleet.beat(lease, Beat(True))
    assert await reserved(fleet) == 0


async def test_a_library_to_which_nothing_was_handed_over_settles(fleet: Fleet) -> None:
    lease = await add(fleet, "e1", calls_max=1)
    await place(fleet, "c")
    await fleet.client.function_flush("SYNC")
    await fleet.client.function_load(library().decode())
    verdict = await fleet.route("more", "east", "1", "1")
    assert isinstance(verdict, Rejected)
    assert verdict.blind
    assert (await view(fleet, "e1")).state == NodeState.JOINING
    await asyncio.sleep(RESERVED_S + SLOT_S)
    await fleet.beat(lease, Beat(True))
    await place(fleet, "more")


async def test_a_library_that_handed_over_and_stays_goes_on(fleet: Fleet) -> None:
    """What came was no library. What it placed since is not forgotten when another comes."""
    await add(fleet, "e1", calls_max=9)
    await place(fleet, "before")
    broken = library().decode() + "this is no Lua\n"
    pipe = fleet.client.pipeline(transaction=True)
    pipe.fcall("handover", 1, "pbx:{unit}")
    pipe.function_load(broken, replace=True)
    _, refused = await pipe.execute(raise_on_error=False)
    assert isinstance(refused, ResponseError)
    await place(fleet, "after")
    assert await reserved(fleet) == 2
    await fleet.load()
    await place(fleet, "last")
    assert await reserved(fleet) == 3


async def test_what_was_placed_after_the_word_is_not_lost_unseen(fleet: Fleet) -> None:
    """A call comes between handover and library, as no role has it come: the library settles."""
    await add(fleet, "e1")
    await place(fleet, "before")
    await fleet.call_function("handover")
    await place(fleet, "between")
    await fleet.client.function_load(library().decode(), replace=True)
    verdict = await fleet.route("more", "east", "1", "1")
    assert isinstance(verdict, Rejected)
    assert "settles" in verdict.reason


async def test_each_fleet_of_a_server_keeps_its_own() -> None:
    with RedisServer() as both:
        client = redis.Redis.from_url(both.url)
        ours, theirs = Fleet(client, "unit"), Fleet(client, "theirs")
        for each in (ours, theirs):
            await each.set_policy(POLICY)
            await add(each, "e1")
            await place(each, "c")
        await place(theirs, "d")
        await ours.load()
        assert [await reserved(each) for each in (ours, theirs)] == [1, 2]
        await client.aclose()


async def test_a_node_that_refuses_twice_gives_back_once(fleet: Fleet) -> None:
    """The second time is a lost reply: nobody else had room, so nothing was placed instead."""
    lease = await add(fleet, "e1")
    await place(fleet, "other")
    refused = await place(fleet, "c")
    for _ in range(2):
        verdict = await fleet.route("c", "east", "1", "1", failed=refused.placement)
        assert isinstance(verdict, Rejected)
        assert await reserved(fleet) == 1
    # It took the call after all, later than the edge waited.
    await fleet.events(lease, [CallStarted("p", refused.placement, "1", "2")])
    seen = await view(fleet, "e1")
    assert (seen.calls, seen.reserved) == (1, 1)


async def test_a_call_told_of_twice_gives_back_once(fleet: Fleet) -> None:
    lease = await add(fleet, "e1")
    placed = [await place(fleet, f"c{n}") for n in range(3)]
    told = [CallStarted("p0", placed[0].placement, "1", "2")] * 2
    await fleet.events(lease, told)
    await fleet.events(lease, told)
    seen = await view(fleet, "e1")
    assert (seen.calls, seen.reserved) == (1, 2)


async def test_a_call_that_shows_late_gives_nothing_back(fleet: Fleet) -> None:
    lease = await add(fleet, "e1")
    late = await place(fleet, "late")
    await asyncio.sleep(RESERVED_S + SLOT_S)
    await fleet.beat(lease, Beat(True))
    await place(fleet, "new")
    await fleet.events(lease, [CallStarted("p0", late.placement, "1", "2")])
    seen = await view(fleet, "e1")
    assert (seen.calls, seen.reserved) == (1, 1)


@pytest.mark.parametrize("record", [b"", b"\xc1", b"\x01", b"\x81\xa1s\xa8reserved"])
async def test_a_damaged_record_keeps_no_library_from_its_work(fleet: Fleet, record: bytes) -> None:
    await add(fleet, "e1")
    placed = await place(fleet, "c")
    await fleet.client.set(f"pbx:{{unit}}:call:{placed.placement[:32]}", record)
    await fleet.load()
    await place(fleet, "next")
    assert await reserved(fleet) == 2


async def test_events_that_break_off_midway_leave_no_call_counted_twice(fleet: Fleet) -> None:
    lease = await add(fleet, "e1")
    placed = await place(fleet, "c")
    events = [{"k": "started", "id": "p", "placement": placed.placement}, {"k": "nonsense"}]
    with pytest.raises(FleetUnreachable):
        await fleet.call_function("events", "e1", lease.epoch, msgspec.msgpack.encode(events))
    await place(fleet, "next")
    seen = await view(fleet, "e1")
    assert (seen.calls, seen.reserved) == (1, 1)


@pytest.fixture
async def short_lived() -> AsyncIterator[Fleet]:
    """The library, with a key that proves its memory fresh for a second instead of a day."""
    code = library().replace(b"PROOF_KEEP_MS = 86400000", b"PROOF_KEEP_MS = 1000")
    assert code != library()
    with RedisServer() as server:
        fleet = Fleet(redis.Redis.from_url(server.url), "unit")
        await fleet.client.function_load(code.decode())
        await fleet.set_policy(POLICY)
        yield fleet
        await fleet.close()


async def test_memory_is_proved_fresh_as_long_as_nodes_beat(short_lived: Fleet) -> None:
    key = f"pbx:{{unit}}:server:{await short_lived.run_id()}"
    lease = await add(short_lived, "e1")
    for n in range(8):
        await asyncio.sleep(0.3)
        await short_lived.beat(lease, Beat(True))
        assert await short_lived.client.pttl(key) > 100
        await place(short_lived, f"c{n}")
    assert await reserved(short_lived) in (3, 4)


async def test_they_hold_when_no_beat_kept_the_proof(short_lived: Fleet) -> None:
    await add(short_lived, "e1")
    await asyncio.sleep(0.7)
    first = await place(short_lived, "c")
    await asyncio.sleep(0.4)
    assert await place(short_lived, "c") == first
    assert await reserved(short_lived) == 1


@pytest.mark.parametrize("how", ["refused", "hung up"])
async def test_a_call_that_is_over_is_placed_anew(fleet: Fleet, how: str) -> None:
    """Though others hold that were placed on its node in the same moment."""
    lease = await add(fleet, "e1")
    first, _ = await place(fleet, "c"), await place(fleet, "other")
    if how == "refused":
        refused = await fleet.route("c", "east", "1", "1", failed=first.placement)
        assert isinstance(refused, Rejected)
    else:
        await fleet.events(lease, [CallStarted("p", first.placement, "1", "2"), CallEnded("p")])
    again = await place(fleet, "c")
    assert again.placement != first.placement
    assert await reserved(fleet) == 2
