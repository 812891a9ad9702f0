"""Where nothing can be recorded: the call is refused or goes on, and a person is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone import Phone
from tests.lab.recorded import RecordingFleet
from tests.lab.rendered import put_rendered, takes
from tests.lab.until import until

pytestmark = pytest.mark.lab

World = tuple[RecordingFleet, Asterisk | FreeSwitch, Phone]


@pytest.fixture(params=["asterisk", pytest.param("freeswitch", marks=pytest.mark.freeswitch)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """On a tmpfs that may be swapped out."""
    with Lab() as lab, Phone(lab.address()) as phone:
        node = lab.asterisk("n") if request.param == "asterisk" else lab.freeswitch("n")
        wanted = {"unable": "refuse"}
        with RecordingFleet(
            lab, {node: "east"}, phone.sip, recordings=wanted, options="nr_inodes=1000"
        ) as fleet:
            put_rendered(fleet.config, node)
            yield fleet, node, phone


def agent_answers(fleet: RecordingFleet) -> bool:
    return takes(f"{fleet.config.agent.host}:{fleet.config.agent.port}")


def alarms(fleet: RecordingFleet) -> list[str]:
    return [a.reason for a in fleet.ask(lambda door: door.alarms()) if a.kind == "recording"]


def test_an_unrecordable_call_is_refused_if_the_policy_says_so(world: World) -> None:
    fleet, node, phone = world
    assert phone.call(node.sip, "9500").code == 503, "there is no agent"
    for role in ("steward", "agent"):
        fleet.start(role)
    until(lambda: agent_answers(fleet), 10, "the agent listens")
    assert phone.call(node.sip, "9500").code == 503, "nothing but a noswap tmpfs will do"
    until(lambda: any("swapped out" in words for words in alarms(fleet)), 5, "a person is told")
    assert not list(fleet.tmpfs.rglob("*.memo"))


def test_or_goes_on(world: World) -> None:
    fleet, node, phone = world
    text = fleet.config_path.read_text().replace("unable: refuse", "unable: go_on")
    fleet.config_path.write_text(text)
    put_rendered(fleet.config, node)
    call = phone.call(node.sip, "9500")
    assert call.code == 200
    call.hang_up()
    fleet.start("agent")
    until(lambda: agent_answers(fleet), 10, "the agent listens")
    assert phone.call(node.sip, "9500").code == 200
    assert not list(fleet.tmpfs.rglob("*.memo"))
