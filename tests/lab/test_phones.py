"""Real phones on real nodes: made by pbxctl, they register, call each other and hear each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.baresip import Baresip, wait_tone
from tests.lab.phone_fleet import PhoneFleet

pytestmark = pytest.mark.lab

LOW_HZ, HIGH_HZ = 440, 1000


def assert_they_talk(caller: Baresip, number: str, called: Baresip) -> None:
    """caller rings number, called answers, each hears the other's tone and not its own."""
    for phone in (caller, called):
        phone.forget_audio()
    since, began = len(called.events), len(caller.events)
    caller.dial(number)
    called.answer(since=since)
    caller.wait("CALL_ESTABLISHED", 8, since=began)
    assert wait_tone(called, caller.tone_hz) > 0.8
    assert wait_tone(caller, called.tone_hz) > 0.8
    assert caller.tone_heard(caller.tone_hz) < 0.2
    caller.hangup()
    called.wait("CALL_CLOSED", 5, since=since)


@pytest.fixture
def fleet(lab: Lab) -> Iterator[PhoneFleet]:
    nodes: dict[Asterisk | FreeSwitch, str] = {
        lab.asterisk("a"): "east",
        lab.asterisk("b"): "west",
    }
    with PhoneFleet(lab, nodes, lab.redis()) as running:
        running.begin()
        yield running


def test_phones_of_one_node_call_each_other(fleet: PhoneFleet) -> None:
    low = fleet.phone("1001", tone_hz=LOW_HZ)
    high = fleet.phone("1002", tone_hz=HIGH_HZ)
    assert (fleet.where("1001"), fleet.where("1002")) == ("a", "a")
    assert_they_talk(low, "1002", high)
    assert_they_talk(high, "1001", low)
