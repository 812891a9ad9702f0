"""lua/redis/35_attest.lua on a real redis-server."""

from __future__ import annotations

import pytest

from controller.api.shapes import call_key, call_view
from controller.errors import StaleEpoch
from controller.fleet.functions import Fleet
from controller.fleet.phones import FleetPhones, PublishedPhone
from controller.fleet.state import Attestation, Lease, LegMedia
from controller.model import CallAnswered, CallEnded, CallStarted, MediaPolicy
from tests.unit.test_functions import add, fleet, place, server

__all__ = ["fleet", "server"]
REQUIRE, PREFER = MediaPolicy
PLAIN = Attestation("plain", "alarm", "clear", legs=(LegMedia("PJSIP/1-1", False, "", True, "1"),))


async def answered(fleet: Fleet, lease: Lease) -> str:
    placed = await place(fleet, "call 1")
    await fleet.events(lease, [CallStarted("p1", placed.placement), CallAnswered("p1")])
    return placed.placement


async def test_an_attestation_stands_in_the_record_after_the_call_too(fleet: Fleet) -> None:
    lease = await add(fleet, "n1")
    await answered(fleet, lease)
    assert await fleet.attest(lease, "p1", PLAIN)
    await fleet.events(lease, [CallEnded("p1", 57)])
    record = await fleet.call("call 1")
    assert record is not None and record.security is not None
    told = record.security
    assert (told.verdict, told.action, told.reason) == ("plain", "alarm", "clear")
    assert told.checked_ms >= record.answered_ms > 0
    (leg,) = told.legs
    assert (leg.leg, leg.encrypted, leg.tls, leg.peer) == ("PJSIP/1-1", False, True, "1")
    assert leg.checked_ms == told.checked_ms
    view = call_view(record).security
    assert view is not None and view.legs[0].encrypted is False


async def test_a_repeat_raises_no_second_alarm_and_a_change_does(fleet: Fleet) -> None:
    lease = await add(fleet, "n1")
    key = (await answered(fleet, lease)).rpartition("-")[0]
    for _ in range(3):
        await fleet.attest(lease, "p1", PLAIN)
    (alarm,) = await fleet.alarms()
    assert (alarm.kind, alarm.node, alarm.call, alarm.reason) == ("media", "n1", key, "clear")
    await fleet.attest(lease, "p1", Attestation("encrypted"))
    await fleet.attest(lease, "p1", PLAIN)
    assert len(await fleet.alarms()) == 2
    assert (await fleet.stats())["alarm:media"] == 2


async def test_a_stale_lease_writes_nothing(fleet: Fleet) -> None:
    lease = await add(fleet, "n1")
    await answered(fleet, lease)
    with pytest.raises(StaleEpoch):
        await fleet.attest(Lease("n1", "1"), "p1", PLAIN)
    record = await fleet.call("call 1")
    assert record is not None and record.security is None
    assert not await fleet.alarms()


async def test_a_call_that_is_not_there(fleet: Fleet) -> None:
    lease = await add(fleet, "n1")
    assert not await fleet.attest(lease, "nobody", PLAIN)
    assert not await fleet.alarms()


async def test_a_call_without_legs_and_hostile_names(fleet: Fleet) -> None:
    lease = await add(fleet, "n1")
    placement = await answered(fleet, lease)
    await fleet.attest(lease, "p1", Attestation("unknown", reason="x"))
    record = await fleet.call(placement)
    assert record is not None and record.security is not None and record.security.legs == ()
    hostile = "PJSIP/\x1b[2J\r\n" + "9" * 500
    await fleet.attest(lease, "p1", Attestation("plain", legs=(LegMedia(hostile, None),)))
    record = await fleet.call(placement)
    assert record is not None and record.security is not None
    (leg,) = record.security.legs
    assert leg.leg.isprintable() and len(leg.leg) <= 128
    assert leg.encrypted is None and leg.tls is None
    assert call_key(record) == placement.rpartition("-")[0]


async def test_lenient_phones_are_told_by_name_alone(fleet: Fleet) -> None:
    phones = FleetPhones(fleet)
    assert await phones.lenient(["east"]) == frozenset()
    epoch = await fleet.lead("phones", "me", 60_000)
    assert epoch is not None
    added = [PublishedPhone(n, "", p, "m", "s") for n, p in (("1", REQUIRE), ("2", PREFER))]
    await phones.publish(epoch, "east", 1, added)
    assert await phones.lenient(["east", "west"]) == {"2"}


async def test_alarms_are_capped(fleet: Fleet) -> None:
    lease = await add(fleet, "n1")
    await answered(fleet, lease)
    for n in range(520):
        await fleet.attest(lease, "p1", Attestation("plain" if n % 2 else "unknown", "alarm"))
    assert len(await fleet.alarms(10_000)) == 500
