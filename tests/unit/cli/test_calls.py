from __future__ import annotations

import pytest

from controller.fleet import commands
from controller.fleet.commands import CommandResult
from controller.model import CallAnswered, CallEnded, CallStarted, Placed
from tests.gate_server import Stand
from tests.unit.cli.conftest import Pbxctl


def place(stand: Stand, call_id: str, caller: str = "100", callee: str = "400123") -> Placed:
    verdict = stand.run(stand.playing.fleet.route(call_id, "east", caller, callee))
    assert isinstance(verdict, Placed)
    return verdict


def live(stand: Stand, call_id: str = "c1", caller: str = "100") -> Placed:
    placed = place(stand, call_id, caller)
    started = CallStarted(f"pbx-{call_id}", placed.placement, caller, "400123")
    stand.run(stand.playing.event(placed.node, started, CallAnswered(f"pbx-{call_id}")))
    return placed


def test_list_has_one_row_a_call(stand: Stand, pbxctl: Pbxctl) -> None:
    placed = live(stand)
    stand.run(stand.playing.start("w1", 2))
    ran = pbxctl("calls", "list")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 4
    assert "answered" in ran.out
    assert len(pbxctl("calls", "list", "--node", "w1", "-o", "name").out.splitlines()) == 2
    keys = pbxctl("calls", "list", "--node", placed.node, "-o", "name").out.split()
    assert keys == [placed.placement.rsplit("-", 1)[0]]


def test_every_key_of_the_list_finds_its_call(stand: Stand, pbxctl: Pbxctl) -> None:
    live(stand)
    stand.run(stand.playing.event("w1", CallStarted("dialled out \x00\xff", caller="555")))
    keys = pbxctl("calls", "list", "-o", "name").out.split()
    assert len(keys) == 2
    for key in keys:
        assert pbxctl("calls", "show", key, "-o", "json").json["key"] == key


def test_the_list_says_when_it_was_cut(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.start("e1", 5))
    ran = pbxctl("calls", "list", "--limit", "3")
    assert len(ran.out.splitlines()) == 4
    assert "more than 3" in ran.err
    ran = pbxctl("calls", "list", "--limit", "5", "-o", "json")
    assert (len(ran.json["calls"]), ran.json["truncated"]) == (5, False)


def test_why_tells_the_numbers(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.start("e1", 50))
    placed = live(stand)
    stand.run(stand.playing.event(placed.node, CallEnded("pbx-c1", 16)))
    told = pbxctl("calls", "why", "c1").out
    assert placed.node == "e2"
    for part in (
        "from 100 to 400123 asked for a node from region east",
        "entry 400 makes it service queue, priority high",
        "e2 was chosen: the least loaded fit node of east, at load 0.20, with 0 calls",
        "The next one was e1 at load 0.5",
        "after placement, as pbx-c1",
        "It was answered",
        "Q.850 cause 16",
    ):
        assert part in told
    assert pbxctl("calls", "why", placed.placement).out == told


def test_why_of_a_call_that_the_fleet_did_not_place(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.start("e1", 1))
    key = pbxctl("calls", "list", "-o", "name").out.strip()
    assert "did not place this call" in pbxctl("calls", "why", key).out


def test_hostile_callers_stay_text(stand: Stand, pbxctl: Pbxctl) -> None:
    live(stand, caller="\x1b[2J[red]\u202e\r\n")
    for argv in (("calls", "list"), ("calls", "why", "c1"), ("calls", "show", "c1")):
        ran = pbxctl(*argv)
        assert ran.code == 0
        assert not set(ran.out) & set("\x1b\r\u202e")
        assert "[2J[red]" in ran.out


def test_hangup_is_the_drivers_command(stand: Stand, pbxctl: Pbxctl) -> None:
    placed = live(stand)
    ran = pbxctl("calls", "hangup", "c1", "--cause", "21", "--yes", "-o", "json")
    assert ran.code == 0
    assert ran.json["state"] == "done"
    assert ran.json["node"] == placed.node
    assert stand.playing.told == [commands.Hangup("pbx-c1", 21)]


def test_hangup_of_what_is_not_live_is_refused(stand: Stand, pbxctl: Pbxctl) -> None:
    place(stand, "c1")
    assert pbxctl("calls", "hangup", "c1", "--yes").code == 4
    assert pbxctl("calls", "hangup", "never", "--yes").code == 2
    assert stand.playing.told == []


def test_originate_fills_a_reservation(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.playing.answer = lambda _: CommandResult("done", pbx_id="new-1")
    ran = pbxctl("calls", "originate", "--to", "+49301", "--from", "400", "--yes", "-o", "json")
    assert ran.code == 0
    assert ran.json["pbx_id"] == "new-1"
    (told,) = stand.playing.told
    assert isinstance(told, commands.Originate)
    want = {"e1": "Local/+49301@pbxctl-out", "e2": "loopback/+49301/pbxctl-out"}
    assert told.request.endpoint == want[ran.json["node"]]
    assert (told.request.exten, told.request.context) == ("400", "pbxctl-services")
    assert told.request.placement == ran.json["placement"]
    assert pbxctl("calls", "show", ran.json["call_id"], "-o", "json").json["state"] == "reserved"


def test_originate_tells_by_what_the_call_is_found(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.playing.answer = lambda _: CommandResult("done", pbx_id="new-2")
    ran = pbxctl("calls", "originate", "--to", "+49301", "--from", "400", "--yes")
    placement = ran.out.rsplit("Its placement is ", 1)[1].strip().rstrip(".")
    assert pbxctl("calls", "show", placement, "-o", "json").json["placement"] == placement


@pytest.mark.parametrize(
    "words", [("calls", "why"), ("calls", "hangup", "--yes"), ("nodes", "show")]
)
def test_an_empty_id_is_told_as_that(pbxctl: Pbxctl, words: tuple[str, ...]) -> None:
    ran = pbxctl(*words, "")
    assert (ran.code, ran.err.startswith("Error: a name or ID is empty")) == (2, True), ran.err


def test_originate_takes_digits_alone(stand: Stand, pbxctl: Pbxctl) -> None:
    for number in ("1@x", "1&PJSIP/2", "1,2", "", "١٢", "1\r\nAction: x", "9" * 19):
        ran = pbxctl("calls", "originate", f"--to={number}", "--from=400", "--yes")
        assert ran.code == 2, number
    assert stand.playing.told == []


def test_originate_without_room_is_refused(stand: Stand, pbxctl: Pbxctl) -> None:
    for name in ("e1", "e2", "w1"):
        stand.run(stand.playing.fleet.want(name, "ejected"))
    ran = pbxctl("calls", "originate", "--to", "1", "--from", "2", "--yes", "-o", "json")
    assert ran.code == 4
    assert "no node of east, west is fit" in ran.error["message"]


def test_an_unknown_end_is_never_called_done(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.playing.answer = lambda _: CommandResult("unknown", "its worker was lost")
    ran = pbxctl("calls", "originate", "--to", "1", "--from", "2", "--yes")
    assert ran.code == 1
    assert "is not known" in ran.err
    assert "look before you repeat it" in ran.err
