"""Phones as `pbxctl init` has them: TLS to their nodes, SRTP or no call, nobody listens in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone_fleet import PhoneFleet
from tests.lab.test_phones import HIGH_HZ, LOW_HZ, assert_they_talk
from tests.lab.wire import listening, stretches

pytestmark = [pytest.mark.lab, pytest.mark.alone]


@pytest.fixture(scope="module")
def fleet() -> Iterator[PhoneFleet]:
    with Lab() as lab:
        nodes: dict[Asterisk | FreeSwitch, str] = {
            lab.asterisk("a"): "east",
            lab.asterisk("b"): "west",
        }
        with PhoneFleet(lab, nodes, lab.redis(), encrypted=True) as running:
            running.begin()
            yield running


def test_phones_of_two_nodes_talk_and_nobody_listens(fleet: PhoneFleet) -> None:
    low = fleet.phone("1001", "east", tone_hz=LOW_HZ)
    high = fleet.phone("2002", "west", tone_hz=HIGH_HZ)
    assert (fleet.where("1001"), fleet.where("2002")) == ("a", "b")
    assert fleet.phone_view("1001").at[0].transport == "tls"
    addresses = [n.address for n in (*fleet.nodes.values(), low, high)]
    with listening(fleet.lab.run, addresses) as seen:
        assert_they_talk(low, "2002", high)
        assert_they_talk(high, "1001", low)
    assert len(seen.media()) > 200
    tones = stretches(low.said) | stretches(high.said)
    assert seen.readable(tones) == 0
    assert not seen.sip_lines()
