"""What a stranger at a registrar gets, and what an operator's change does to phones in use."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator

import pytest

from controller.errors import Refused
from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone_fleet import PhoneFleet
from tests.lab.register import Answer, Registrar
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]
HOSTILE = 'Robert"\nauth = other\n[evil](pbxctl-phone)\r\n;{a=b}${SHELL(id)}<sip:x>' + "é" * 4000


@pytest.fixture(scope="module")
def fleet() -> Iterator[PhoneFleet]:
    with Lab() as lab:
        nodes: dict[Asterisk | FreeSwitch, str] = {
            lab.asterisk("a"): "east",
            lab.asterisk("b"): "west",
        }
        with PhoneFleet(lab, nodes, lab.redis()) as running:
            running.begin()
            yield running


def attempt(fleet: PhoneFleet, node: str, name: str, password: str) -> Answer:
    registrar = Registrar(fleet.nodes[node].sip, fleet.lab.address())
    challenge = registrar.register(name)
    assert challenge.code == 401
    return registrar.register(name, registrar.authorization(name, password, challenge))


def test_the_password_decides(fleet: PhoneFleet) -> None:
    made = fleet.add("1101")
    fleet.until_ready("1101")
    for node in ("a", "b"):
        assert attempt(fleet, node, "1101", made.password).code == 200
        for wrong in ("", "1101", made.password[:-1], made.password + "x"):
            assert attempt(fleet, node, "1101", wrong).code in (401, 403)
    # of an unknown name a stranger learns no more than of a known one
    assert attempt(fleet, "a", "1199", made.password).code in (401, 403)


def test_nobody_becomes_a_trunk_or_a_phone_by_calling_himself_so(fleet: PhoneFleet) -> None:
    fleet.add("1109")
    fleet.until_ready("1109")
    for name in ("pbxctl-trunk", "pbxctl-to-b", "1109"):
        calls = fleet.lab.calls(fleet.nodes["a"].sip, "9500", caller=name).result().calls
        assert [c.code for c in calls] == [401], name


def test_a_stolen_register_opens_nothing(fleet: PhoneFleet) -> None:
    made = fleet.add("1102")
    fleet.until_ready("1102")
    honest = Registrar(fleet.nodes["a"].sip, fleet.lab.address())
    header = honest.authorization("1102", made.password, honest.register("1102"))
    assert honest.register("1102", header).code == 200
    thief = Registrar(fleet.nodes["a"].sip, fleet.lab.address())
    assert thief.send(honest.sent).code in (401, 403)
    assert thief.register("1102", header).code in (401, 403)
    until(lambda: fleet.phone_view("1102").at, 5, "1102 is seen")
    (place,) = fleet.phone_view("1102").at
    assert honest.sent.split("Contact: <")[1].split(">")[0].startswith(place.contact.split(";")[0])


def test_a_placement_header_from_a_phone_is_not_believed(fleet: PhoneFleet) -> None:
    text = (fleet.nodes["a"].folder / "etc" / "pbxctl-phones.conf").read_text()
    assert "context = pbxctl-phones" in text
    contexts = (fleet.nodes["a"].folder / "etc" / "pbxctl-extensions.conf").read_text()
    phones = contexts.split("[pbxctl-phones]")[1].split("\n[")[0]
    assert "X-Pbxctl" not in phones


def test_a_hostile_display_name_makes_one_phone_and_no_more(fleet: PhoneFleet) -> None:
    made = fleet.add("1103", display=HOSTILE)
    fleet.until_ready("1103")
    for node in fleet.nodes.values():
        assert isinstance(node, Asterisk)
        shown = node.cli("pjsip show endpoint 1103")
        assert "1103" in shown
        assert "evil" in shown.split("callerid")[1].split("\n")[0]  # a word in a name, no section
        assert "Unable to find" in node.cli("pjsip show endpoint evil")
    assert attempt(fleet, "b", "1103", made.password).code == 200
    assert fleet.phone_view("1103").display == HOSTILE


def test_of_two_adds_at_once_one_wins(fleet: PhoneFleet) -> None:
    won: list[str] = []

    def add() -> None:
        try:
            won.append(fleet.add("1104").password)
        except Refused:
            return

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    fleet.until_ready("1104")
    assert attempt(fleet, "a", "1104", won[0]).code == 200


def test_rotate_lands_later_on_a_node_that_was_out_of_reach(fleet: PhoneFleet) -> None:
    old = fleet.add("1105").password
    fleet.until_ready("1105")
    fleet.nodes["b"].freeze()
    new = fleet.rotate("1105").password
    until(lambda: [p.node for p in fleet.phone_view("1105").pending] == ["b"], 8, "b is pending")
    assert fleet.phone_view("1105").state == "pending"
    assert attempt(fleet, "a", "1105", new).code == 200
    assert attempt(fleet, "a", "1105", old).code in (401, 403)
    until(lambda: fleet.phone_view("1105").pending[0].problem, 15, "why is told")
    fleet.nodes["b"].thaw()
    fleet.until_ready("1105", 30)
    assert attempt(fleet, "b", "1105", new).code == 200
    assert attempt(fleet, "b", "1105", old).code in (401, 403)


def test_a_phone_removed_on_a_call_keeps_the_call_and_then_is_gone(fleet: PhoneFleet) -> None:
    phone = fleet.phone("1106")
    phone.dial("9500")
    phone.wait("CALL_ESTABLISHED", 8)
    node = fleet.nodes[fleet.where("1106")]
    assert isinstance(node, Asterisk)
    fleet.remove("1106")
    until(lambda: "1106" not in [p.name for p in fleet.phones()], 8, "let go by every node")
    assert "PJSIP/1106" in node.cli("core show channels concise")
    heard = len(phone.heard.read_bytes())
    until(lambda: len(phone.heard.read_bytes()) > heard, 3, "audio still comes")
    phone.hangup()
    phone.wait("CALL_CLOSED", 5)
    phone.restart()
    until(lambda: "401" in phone.log_end(200) or "403" in phone.log_end(200), 10, "refused")


def test_a_full_disk_keeps_the_old_file_and_says_so(fleet: PhoneFleet) -> None:
    kept = fleet.add("1107").password
    fleet.until_ready("1107")
    folder = fleet.nodes["b"].folder / "etc"
    small = fleet.lab.run.folder / "small"
    small.mkdir()
    path = folder / "pbxctl-phones.conf"
    before = path.read_text()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", small], check=True)
    try:
        subprocess.run(["cp", "-a", *folder.iterdir(), small], check=True)
        subprocess.run(["mount", "--bind", small, folder], check=True)
        try:
            (small / "filler").write_bytes(b"")
            with (small / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
                while True:
                    filler.write(b"x" * 512)
            fleet.add("1108")
            until(
                lambda: any("No space" in p.problem for p in fleet.phone_view("1108").pending),
                10,
                "the full disk is told",
            )
            assert path.read_text() == before
            assert attempt(fleet, "b", "1107", kept).code == 200
            (small / "filler").unlink()
            fleet.until_ready("1108", 20)
        finally:
            text = path.read_bytes()
            subprocess.run(["umount", "-l", folder], check=True)
    finally:
        subprocess.run(["umount", "-l", small], check=True)
    path.write_bytes(text)
