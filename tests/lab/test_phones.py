"""Real phones on real nodes: made by pbxctl, they register, call each other and hear each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from controller.model import NodeState, Placed, Rejected
from tests.lab.asterisk import Asterisk
from tests.lab.baresip import Baresip, wait_tone
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone import Phone
from tests.lab.phone_fleet import PhoneFleet
from tests.lab.register import Registrar
from tests.lab.services import Redis
from tests.lab.until import until
from tests.lab.wire import listening, stretches

pytestmark = [pytest.mark.lab, pytest.mark.alone]

LOW_HZ, HIGH_HZ = 440, 950


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


def test_phones_of_two_nodes_call_each_other(fleet: PhoneFleet) -> None:
    low = fleet.phone("1001", "east", tone_hz=LOW_HZ)
    high = fleet.phone("2002", "west", tone_hz=HIGH_HZ)
    assert (fleet.where("1001"), fleet.where("2002")) == ("a", "b")
    addresses = [n.address for n in (*fleet.nodes.values(), low, high)]
    with listening(fleet.lab.run, addresses) as seen:
        assert_they_talk(low, "2002", high)
    # in clear, as this fleet is: what test_phones_encrypted looks for can be found
    assert seen.readable(stretches(low.said) | stretches(high.said)) > 50
    assert seen.sip_lines()
    assert_they_talk(high, "1001", low)
    placed = [c for c in fleet.ask(lambda door: door.calls("b")) if c.placement]
    assert not placed  # ended, and so off the live set


def test_a_call_from_outside_finds_the_phones_node(fleet: PhoneFleet) -> None:
    fleet.phone("2002", "west")
    verdict = fleet.route("from an edge", "east", "2002")
    assert isinstance(verdict, Placed)
    assert (verdict.node, verdict.service) == ("b", "")
    assert "registered on b" in verdict.reason
    fleet.nodes["b"].freeze()
    fleet.until_state("b", NodeState.DOWN, 4)
    refused = fleet.route("another", "east", "2002")
    assert isinstance(refused, Rejected)
    assert refused.cause == 480
    assert "registered on b, which is" in refused.reason


def test_a_phone_whose_node_dies_is_called_on_the_next(fleet: PhoneFleet) -> None:
    low = fleet.phone("1001", tone_hz=LOW_HZ)
    high = fleet.phone("2002", "west", tone_hz=HIGH_HZ)
    fleet.nodes["a"].kill()
    fleet.until_at("1001", "b", 45)
    assert_they_talk(high, "1001", low)
    assert_they_talk(low, "2002", high)


def test_without_pbxctl_phones_register_and_call(fleet: PhoneFleet) -> None:
    low = fleet.phone("1001", tone_hz=LOW_HZ)
    other = fleet.phone("1003", tone_hz=700)
    high = fleet.phone("2002", "west", tone_hz=HIGH_HZ)
    for role in list(fleet.roles):
        fleet.stop(role, kill=True)
    for node in fleet.nodes.values():
        node.restart()
    for phone in (low, other, high):
        phone.restart()
        phone.wait_registered()
    assert_they_talk(low, "1003", other)
    assert_they_talk(low, "2002", high)  # no agent to ask: every node is


def test_without_redis_phones_call_each_other(fleet: PhoneFleet) -> None:
    low = fleet.phone("1001", tone_hz=LOW_HZ)
    high = fleet.phone("2002", "west", tone_hz=HIGH_HZ)
    redis = next(node for node in fleet.lab.nodes if isinstance(node, Redis))
    redis.freeze()
    assert_they_talk(low, "2002", high)


@pytest.mark.freeswitch
def test_phones_of_freeswitch_and_asterisk_call_each_other(lab: Lab) -> None:
    nodes: dict[Asterisk | FreeSwitch, str] = {
        lab.freeswitch("f"): "east",
        lab.asterisk("b"): "west",
    }
    with PhoneFleet(lab, nodes, lab.redis()) as fleet:
        fleet.begin()
        low = fleet.phone("1001", "east", tone_hz=LOW_HZ)
        other = fleet.phone("1003", "east", tone_hz=700)
        high = fleet.phone("2002", "west", tone_hz=HIGH_HZ)
        assert (fleet.where("1001"), fleet.where("2002")) == ("f", "b")
        seen = fleet.phone_view("1001").at[0]
        assert (seen.transport, seen.user_agent[:7]) == ("tcp", "baresip")
        assert_they_talk(low, "1003", other)
        assert_they_talk(low, "2002", high)
        assert_they_talk(high, "1001", low)
        low.stop()
        until(lambda: not fleet.where("1001"), 10, "1001 gone")
        fleet.rotate("1003")
        fleet.until_ready("1003")
        other.restart()
        until(lambda: "403" in other.log_end(200), 10, "the old password is refused")


@pytest.mark.freeswitch
def test_a_phones_contact_is_no_dial_string(lab: Lab) -> None:
    """A comma would begin another leg, brackets its variables: shell commands, where they name one
    for FreeSWITCH to do."""
    node, told = lab.freeswitch("f"), lab.run.folder / "told"
    with Phone(lab.address()) as edge:
        edges = {"k": {"region": "east", "sip": edge.sip}}
        with PhoneFleet(lab, {node: "east"}, lab.redis(), settings={"edges": edges}) as fleet:
            fleet.begin()
            password = fleet.add("1101").password
            fleet.until_ready("1101")
            phone = Registrar(node.sip, lab.address())
            answer = phone.authorization("1101", password, phone.register("1101"))
            leg = f"[api_on_answer=system touch {told}]loopback/9500/pbxctl-services"
            assert phone.register("1101", answer, evil=f";x=a,{leg}").code == 200
            with pytest.raises(TimeoutError):  # the phone is rung, and nobody answers
                edge.call(node.sip, "1101", timeout_s=2)
            assert not told.exists()
            phone.close()


@pytest.mark.parametrize("services", ["as rendered", "as they were"])
def test_a_phones_contact_is_no_list_of_channels(lab: Lab, services: str) -> None:
    """For Dial, `&` begins another channel, in any context. The operator's file may be older."""
    node = lab.asterisk("a")
    with Phone(lab.address()) as edge:
        edges = {"k": {"region": "east", "sip": edge.sip}}
        with PhoneFleet(lab, {node: "east"}, lab.redis(), settings={"edges": edges}) as fleet:
            fleet.begin()
            if services == "as they were":
                path = node.folder / "etc" / "pbxctl-services.conf"
                text = path.read_text()
                assert "Dial(PJSIP/${EXTEN},60)" in text
                path.write_text(text.replace("PJSIP/${EXTEN}", "${PBXCTL_PHONES}"))
                node.cli("dialplan reload")
            password = fleet.add("1101").password
            fleet.until_ready("1101")
            phone = Registrar(node.sip, lab.address())
            answer = phone.authorization("1101", password, phone.register("1101"))
            other = ';x="a&Local/9500@pbxctl-services"'
            assert phone.register("1101", answer, evil=other).code == 200
            assert edge.call(node.sip, "1101").code == 403
            phone.close()
