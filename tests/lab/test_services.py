"""What a placed call does on its node: the rendered services of both PBXs, by real calls.

The caller stands behind a rendered Kamailio; phones and agents are the operator's own lines in the
files that `pbxctl render` writes once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.model import Placed
from controller.render.files import render
from controller.render.write import write
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone import Phone
from tests.lab.rendered import put_files, start_kamailio
from tests.lab.until import until

pytestmark = pytest.mark.lab

NUMBERS = [
    {"prefix": "95", "service": "echo"},
    {"prefix": "400", "service": "queue"},
    {"prefix": "500", "service": "ivr"},
]
TONE = 0x2A  # any byte of PCMU that is no silence
ASTERISK_PHONE = """
[{number}]
type = endpoint
context = none
allow = !all,ulaw
aors = {number}
direct_media = no
[{number}]
type = aor
contact = sip:{number}@{sip}
"""
FREESWITCH_PHONE = """
    <extension name="desk"><condition field="destination_number" expression="^200$">
      <action application="bridge" data="sofia/pbxctl/200@{sip}"/>
    </condition></extension>"""
FREESWITCH_FIFO = """<fifos><fifo name="pbxctl" importance="0">
<member timeout="20" simo="1" lag="1">sofia/pbxctl/700@{sip}</member></fifo></fifos>"""


@dataclass
class World:
    lab: Lab
    fleet: LabFleet
    node: Asterisk | FreeSwitch
    folder: Path
    edge: str
    called: Phone
    caller: Phone


def until_placed(fleet: LabFleet) -> None:
    """Until `route` gives the node: the state of one that settles is ahead of the next beat."""

    def given() -> bool:
        verdict = fleet.ask(lambda door: door.route("dry", "east", "", "9500", dry=True))
        print(verdict)  # shown when it never comes
        return isinstance(verdict, Placed)

    until(given, 20, "the node is given")


def swap(path: Path, old: str, new: str) -> None:
    """Changes an operator's file as his editor would."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _own_lines(folder: Path, node: Asterisk | FreeSwitch, sip: str) -> None:
    """The phone 200 and an agent of the queue, both at `sip`."""
    if isinstance(node, Asterisk):
        with (folder / "pjsip.conf").open("a") as pjsip:
            for number in ("200", "700"):
                pjsip.write(ASTERISK_PHONE.format(number=number, sip=sip))
        with (folder / "pbxctl-queues.conf").open("a") as queues:
            queues.write("member = PJSIP/700\n")
        return
    phone = '<context name="pbxctl-phone">'
    swap(folder / "pbxctl-services.xml", phone, phone + FREESWITCH_PHONE.format(sip=sip))
    swap(folder / "freeswitch.xml", "<fifos/>", FREESWITCH_FIFO.format(sip=sip))


@pytest.fixture(
    scope="module",
    params=["asterisk", pytest.param("freeswitch", marks=pytest.mark.freeswitch)],
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Lab() as lab, Phone(lab.address()) as called, Phone(lab.address()) as caller:
        node = lab.asterisk("n") if request.param == "asterisk" else lab.freeswitch("n")
        edge = f"{lab.address()}:5060"
        settings = {
            "edges": {"k": {"region": "east", "sip": edge}},
            "numbers": NUMBERS,
            "agent": {"host": lab.address()},
        }
        with LabFleet(
            lab, {node: "east"}, lab.redis(), calls_max=20, user="fleet", settings=settings
        ) as fleet:
            folder = put_files(fleet.config, node)
            _own_lines(folder, node, called.sip)
            node.restart()
            fleet.start("driver")
            fleet.start("steward")
            start_kamailio(lab, fleet.config, "k")
            until_placed(fleet)
            yield World(lab, fleet, node, folder, edge, called, caller)


@pytest.fixture
def quiet(world: World) -> Iterator[World]:
    """No call on the node and nothing heard yet."""
    yield world
    for call in world.caller.calls.values():
        call.hang_up()
    until(lambda: world.fleet.view("n").calls == 0, 5, "all calls over")
    world.called.invites.clear()
    world.caller.heard.clear()
    world.called.heard.clear()


def test_echo_brings_back_the_callers_audio(quiet: World) -> None:
    call = quiet.caller.call(quiet.edge, "9500")
    assert call.code == 200
    call.talk(25, TONE)
    until(lambda: quiet.caller.heard.get(TONE, 0) >= 15, 2, f"echo, {quiet.caller.heard}")


def test_the_queue_connects_an_agent(quiet: World) -> None:
    call = quiet.caller.call(quiet.edge, "4001")
    assert call.code == 200
    until(lambda: quiet.called.invites, 5, "the agent is called")

    def heard() -> bool:
        call.talk(5, TONE)
        return quiet.called.heard.get(TONE, 0) >= 3

    until(heard, 5, "the agent hears the caller")
    until(lambda: quiet.fleet.view("n").calls == 1, 5, "caller and agent are one call")


def test_a_phone_of_the_node_is_called(quiet: World) -> None:
    call = quiet.caller.call(quiet.edge, "200")
    assert call.code == 200
    until(lambda: quiet.called.invites, 2, "the phone is called")
    call.talk(10, TONE)
    until(lambda: quiet.called.heard.get(TONE, 0) >= 3, 2, "the phone hears the caller")


def test_a_phone_that_is_not_there_is_404(quiet: World) -> None:
    assert quiet.caller.call(quiet.edge, "299").code == 404


@pytest.mark.parametrize("how", ["rfc4733", "info"])
def test_the_ivrs_2_is_the_echo(quiet: World, how: str) -> None:
    call = quiet.caller.call(quiet.edge, "5001")
    assert call.code == 200
    call.talk(25, 0xFF)  # the prompt has begun
    call.digit("2") if how == "rfc4733" else call.digit_by_info("2")

    def heard() -> bool:
        call.talk(5, TONE)
        return quiet.caller.heard.get(TONE, 0) >= 5

    until(heard, 5, "the echo")
    assert not quiet.called.invites


def test_the_ivrs_1_is_the_queue(quiet: World) -> None:
    call = quiet.caller.call(quiet.edge, "5001")
    call.talk(25, 0xFF)
    call.digit("1")
    until(lambda: quiet.called.invites, 5, "the agent is called")


@pytest.mark.parametrize("number", ["200", "4001"])
def test_a_phone_never_sees_the_placement(quiet: World, number: str) -> None:
    quiet.caller.call(quiet.edge, number, headers={"X-Secret": "1"})
    until(lambda: quiet.called.invites, 5, "the phone is called")
    assert "x-pbxctl" not in quiet.called.invites[0].lower()
    assert "x-secret" not in quiet.called.invites[0].lower()


@pytest.mark.parametrize(
    "caller",
    [
        '"a%0Ab" <sip:100@here>',
        '"ab%0A" <sip:100@here>',
        '"a%0D%0AX-Evil: 1" <sip:100@here>',
        '"100" <sip:1%0A0@here>',
        '"100" <sip:1%0D%0AX-Evil:%201@here>',
        '"a\\"b" <sip:100@here>',
        '"a%22b" <sip:100@here>',
        '"${hostname}" <sip:$%7Bhostname%7D@here>',
        '"a\u2028b" <sip:100@here>',
    ],
)
@pytest.mark.parametrize("number", ["200", "4001"])
def test_a_hostile_caller_is_put_through_as_data(quiet: World, caller: str, number: str) -> None:
    call = quiet.caller.call(quiet.edge, number, caller=caller)
    assert call.code == 200
    assert call.setup_s < 1.5
    until(lambda: quiet.called.invites, 5, "the phone is called")
    invite = quiet.called.invites[0]
    assert "X-Evil" not in [line.split(":")[0] for line in invite.splitlines()]
    assert invite.count("\n") == invite.count("\r\n")


def test_a_service_is_the_operators_to_change(quiet: World) -> None:
    """The last one here: 95… becomes what the operator says, and a render leaves it so."""
    asterisk = isinstance(quiet.node, Asterisk)
    path = quiet.folder / ("pbxctl-services.conf" if asterisk else "pbxctl-services.xml")
    text = path.read_text()
    old, new = (
        (" same => n,Echo()", " same => n,Hangup(17)")
        if asterisk
        else ('<action application="echo"/>', '<action application="hangup" data="USER_BUSY"/>')
    )
    assert old in text
    changed = text.replace(old, new).replace(
        "1,Answer()\n same => n,Hangup(17)", "1,Hangup(17)"
    ).replace('<action application="answer"/>\n        <action application="hangup"',
              '<action application="hangup"')  # fmt: skip
    path.write_text(changed)
    assert path.name not in write(render(quiet.fleet.config, "n", quiet.folder))
    quiet.node.restart()
    until_placed(quiet.fleet)
    assert path.read_text() == changed
    assert quiet.caller.call(quiet.edge, "9500").code == 486
