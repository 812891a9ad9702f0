"""Real calls on real PBXs, recorded, sealed while they are on, and opened with the vault's key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from controller.vault.wire import Outcome
from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone import Phone
from tests.lab.recorded import RecordingFleet, heard_share, linear
from tests.lab.sipp import _ulaw_byte, speech_file, ulaw_of
from tests.lab.until import until

pytestmark = pytest.mark.lab


@dataclass
class World:
    lab: Lab
    fleet: RecordingFleet
    node: Asterisk | FreeSwitch
    phone: Phone


def tone(seconds: float, hz: float = 440.0) -> bytes:
    samples = (
        int(9000 * math.sin(2 * math.pi * hz * i / 8000)) for i in range(int(8000 * seconds))
    )
    return bytes(_ulaw_byte(sample) for sample in samples)


@pytest.fixture(
    scope="module",
    params=["asterisk", pytest.param("freeswitch", marks=pytest.mark.freeswitch)],
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Lab() as lab, Phone(lab.address()) as phone:
        node = lab.asterisk("n") if request.param == "asterisk" else lab.freeswitch("n")
        with RecordingFleet(lab, {node: "east"}, phone.sip) as fleet:
            fleet.start_all()
            yield World(lab, fleet, node, phone)


def test_a_call_is_at_the_vault_as_it_was_heard(world: World) -> None:
    speech = ulaw_of(speech_file(world.lab.run.root))[: 8000 * 4]
    told = tone(1.0) + speech
    call = world.phone.call(world.node.sip, "9500")
    assert call.code == 200
    call.say(told)
    (recording,) = world.fleet.recordings()
    so_far = world.fleet.taken(recording)
    assert so_far.end is None
    assert so_far.chunks >= 4, "it is sealed while the call is on"
    call.hang_up()
    (taken,) = world.fleet.ended()
    assert heard_share(linear(told), taken.left) > 0.95
    assert heard_share(linear(told), taken.right) > 0.9, "the echo, on the other side"
    assert taken.end
    assert taken.end.outcome is Outcome.COMPLETE, taken.end.reason
    assert taken.end.call_ms
    assert abs(len(taken.plain) / 32 - taken.end.call_ms) < 700
    assert (taken.header.rate_hz, taken.header.channels) == (8000, 2)
    assert taken.particulars.callee == "9500"
    assert taken.particulars.rule == "all-echo"
    assert taken.particulars.retention_days == 30
    until(lambda: not list((world.fleet.tmpfs / "n").iterdir()), 3, "nothing is left in the tmpfs")
