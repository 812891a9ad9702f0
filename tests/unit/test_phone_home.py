"""A call to a phone goes where the phone is registered, and nowhere else."""

from __future__ import annotations

from controller.fleet.functions import Fleet
from controller.fleet.phones import FleetPhones
from controller.model import PhoneRegistered, Rejected
from tests.unit.test_functions import add, fleet, place, server

__all__ = ["fleet", "server"]


async def test_a_phone_that_its_node_cannot_ring_is_asked_for_at_no_other(fleet: Fleet) -> None:
    lease = await add(fleet, "e1")
    await add(fleet, "e2")
    await FleetPhones(fleet).told(lease, [PhoneRegistered("1001", "sip:1001@192.0.2.1", 60)])
    first = await place(fleet, "c", callee="1001")
    assert first.node == "e1"
    again = await fleet.route("c", "east", "100", "1001", failed=first.placement)
    assert isinstance(again, Rejected), again
    assert again.cause == 480
    assert again.reason == "the phone is registered on e1, which is asked already"


async def test_a_phone_on_two_nodes_is_called_on_the_other(fleet: Fleet) -> None:
    phones = FleetPhones(fleet)
    for n, name in enumerate(("e1", "e2")):
        lease = await add(fleet, name)
        told = PhoneRegistered("1001", f"sip:1001@192.0.2.{n}", 60 + 60 * n)
        await phones.told(lease, [told])
    first = await place(fleet, "c", callee="1001")
    second = await place(fleet, "c", callee="1001", failed=first.placement)
    assert {first.node, second.node} == {"e1", "e2"}
    third = await fleet.route("c", "east", "100", "1001", failed=second.placement)
    assert isinstance(third, Rejected) and third.cause == 480
