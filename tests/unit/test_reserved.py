"""Reservations stand in the library's memory; one that takes its place finds them in Redis."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from controller.errors import FleetUnreachable
from controller.fleet.functions import Fleet
from controller.fleet.state import Beat
from controller.model import CallStarted, Rejected
from tests.unit.test_functions import POLICY, add, fleet, place, server, view

__all__ = ["fleet", "server"]

RESERVED_S = POLICY["reservation_ms"] / 1000


async def queued(fleet: Fleet, node: str) -> int:
    length: int = await fleet.client.llen(f"pbx:{{unit}}:resv:queue:{node}")
    return length


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


async def test_those_of_a_library_of_0_1_hold_too(fleet: Fleet) -> None:
    lease = await add(fleet, "e1")
    placed = [(await place(fleet, f"c{n}")).placement for n in range(3)]
    async with fleet.client.pipeline() as pipe:
        pipe.delete("pbx:{unit}:resv:queue:e1")
        pipe.zadd("pbx:{unit}:resv:e1", dict.fromkeys(placed, 1))
        await pipe.execute()
    await fleet.load()
    await place(fleet, "new")
    assert (await view(fleet, "e1")).reserved == 4
    await fleet.events(lease, [CallStarted("p0", placed[0], "1", "2")])
    assert (await view(fleet, "e1")).reserved == 3
    await asyncio.sleep(RESERVED_S + 0.05)
    await fleet.beat(lease, Beat(True))
    assert (await view(fleet, "e1")).reserved == 0
    assert await queued(fleet, "e1") == 0


@pytest.mark.parametrize("record", [b"", b"\xc1", b"\x01", b"\x81\xa1s\xa8reserved"])
async def test_a_damaged_record_keeps_no_library_from_its_work(fleet: Fleet, record: bytes) -> None:
    await add(fleet, "e1")
    placed = await place(fleet, "c")
    await fleet.client.set(f"pbx:{{unit}}:call:{placed.placement[:32]}", record)
    await fleet.load()
    await place(fleet, "next")
    assert (await view(fleet, "e1")).reserved == 1


async def test_they_end_in_a_replaced_library_when_they_would_have(fleet: Fleet) -> None:
    lease = await add(fleet, "e1", calls_max=3)
    await place(fleet, "early")
    await asyncio.sleep(RESERVED_S * 0.6)
    await fleet.beat(lease, Beat(True))
    await place(fleet, "late")
    await fleet.load()
    await asyncio.sleep(RESERVED_S * 0.5)
    await fleet.beat(lease, Beat(True))
    assert (await view(fleet, "e1")).reserved == 1
    await asyncio.sleep(RESERVED_S * 0.6)
    await fleet.beat(lease, Beat(True))
    assert (await view(fleet, "e1")).reserved == 0


async def test_the_queue_in_redis_ends_with_them(fleet: Fleet) -> None:
    lease = await add(fleet, "e1")
    for n in range(8):
        placed = await place(fleet, f"c{n}")
        if n % 2:
            await fleet.events(lease, [CallStarted(f"p{n}", placed.placement, "1", "2")])
    assert await queued(fleet, "e1") == 8
    await asyncio.sleep(RESERVED_S + 0.05)
    await fleet.beat(lease, Beat(True))
    await place(fleet, "after")
    assert await queued(fleet, "e1") == 1
    seen = await view(fleet, "e1")
    assert (seen.calls, seen.reserved) == (4, 1)


async def test_events_that_break_off_midway_leave_no_call_counted_twice(fleet: Fleet) -> None:
    lease = await add(fleet, "e1")
    placed = await place(fleet, "c")
    events = [{"k": "started", "id": "p", "placement": placed.placement}, {"k": "nonsense"}]
    with pytest.raises(FleetUnreachable):
        await fleet.call_function("events", "e1", lease.epoch, msgspec.msgpack.encode(events))
    await place(fleet, "next")
    seen = await view(fleet, "e1")
    assert (seen.calls, seen.reserved) == (1, 1)
