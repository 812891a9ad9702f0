"""pbxctl phones against a real gate and real SQL: what is shown once, and what never."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from controller.media.phones import digests
from tests.gate_server import Stand
from tests.unit.cli.conftest import Pbxctl, Ran


@pytest.fixture
def phone(stand: Stand, pbxctl: Pbxctl) -> Any:
    """Makes phones with names of this test's own, for the records outlive a test."""
    made: list[str] = []

    def add(name: str, *options: str) -> Ran:
        made.append(name)
        return pbxctl("phones", "add", name, *options)

    yield add
    for name in made:
        pbxctl("phones", "remove", name, "--yes")


def test_add_shows_the_password_once(stand: Stand, pbxctl: Pbxctl, phone: Any) -> None:
    made = phone("3001", "--region", "west", "--display", "Lobby", "-o", "json").json
    password = made["password"]
    assert len(password) >= 24
    assert made["uri"] == f"sip:3001:{password}@127.0.15.3:5060;transport=tcp"
    for words in (["show", "3001"], ["list"]):
        told = pbxctl("phones", *words, "-o", "json").out
        assert "3001" in told
        assert password not in told
        assert digests("3001", "test", password).md5 not in told
    seen = pbxctl("phones", "show", "3001", "-o", "json").json
    assert (seen["display"], seen["region"], seen["state"]) == ("Lobby", "west", "pending")
    assert [p["node"] for p in seen["pending"]] == ["w1"]


def test_files_and_code_are_for_their_owner_alone(
    pbxctl: Pbxctl, phone: Any, tmp_path: Path
) -> None:
    code = tmp_path / "code.svg"
    ran = phone("3002", "--into", str(tmp_path / "new"), "--qr", str(code))
    assert ran.code == 0
    password = next(x.split()[1] for x in ran.out.splitlines() if x.startswith("password"))
    files = [p for p in (tmp_path / "new").rglob("*") if p.is_file()]
    assert {p.name for p in files} == {"accounts", "config", "linphone.xml", "desk.cfg"}
    for path in (*files, code):
        assert path.stat().st_mode & 0o777 == 0o600
    assert f"auth_pass={password};" in (tmp_path / "new" / "baresip" / "accounts").read_text()
    assert code.read_text().startswith("<?xml")


def test_a_file_that_cannot_be_written_does_not_cost_the_password(
    pbxctl: Pbxctl, phone: Any, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    ran = phone("3003", "--into", str(tmp_path / "taken" / "in"))
    assert ran.code == 2
    assert "password" in ran.out
    assert "cannot be written" in ran.err


def test_a_duplicate_is_refused_and_changes_nothing(pbxctl: Pbxctl, phone: Any) -> None:
    phone("3004", "--display", "first")
    again = phone("3004", "--display", "second")
    assert again.code == 4
    assert "there is a phone '3004' already" in again.err
    assert pbxctl("phones", "show", "3004", "-o", "json").json["display"] == "first"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["add", "30 05"], "cannot be a phone's name"),
        (["add", "reception"], "nobody could dial it"),
        (["add", "40012"], "which the config has for queue"),
        (["add", "a;b\n[x]"], "cannot be a phone's name"),
        (["add", "3005", "--region", "eats"], "did you mean east"),
        (["add", "3005", "--display", "x" * 5001], "at most 5000"),
        (["add", "3005", "--policy", "maybe"], "maybe"),
        (["add", "3005", "--qr", "code.txt"], "neither .png nor .svg"),
        (["rotate", "nobody", "--yes"], "there is no phone 'nobody'"),
        (["remove", "nobody", "--yes"], "there is no phone 'nobody'"),
        (["show", "../../etc"], "there is no phone"),
        (["dns", "--region", "eats"], "did you mean east"),
    ],
)
def test_bad_input_is_told_and_nothing_is_made(pbxctl: Pbxctl, argv: list[str], says: str) -> None:
    ran = pbxctl("phones", *argv)
    assert ran.code == 2
    assert says in ran.err
    assert "3005" not in pbxctl("phones", "list", "-o", "name").out


def test_a_hostile_display_name_does_not_reach_the_terminal(pbxctl: Pbxctl, phone: Any) -> None:
    name = "\x1b[2J\u202eevil\n[red]"
    phone("3006", "--display", name)
    assert pbxctl("phones", "show", "3006", "-o", "json").json["display"] == name
    out = pbxctl("phones", "list", "-o", "wide").out
    assert "\\x1b[2J\\u202eevil\\x0a[red]" in out
    assert "\x1b" not in out


def test_dry_run_makes_nothing(pbxctl: Pbxctl, phone: Any) -> None:
    ran = pbxctl("phones", "add", "3007", "--dry-run", "-o", "json").json
    assert (ran["dry_run"], ran["password"]) == (True, "")
    assert pbxctl("phones", "show", "3007").code == 2
    phone("3007")
    before = pbxctl("phones", "show", "3007", "-o", "json").json
    for verb in ("rotate", "remove"):
        assert pbxctl("phones", verb, "3007", "--dry-run").code == 0
    assert pbxctl("phones", "show", "3007", "-o", "json").json == before


def test_rotate_makes_another_password(pbxctl: Pbxctl, phone: Any) -> None:
    first = phone("3008", "-o", "json").json["password"]
    assert pbxctl("phones", "rotate", "3008").code == 2  # nobody is there to confirm it
    second = pbxctl("phones", "rotate", "3008", "--yes", "-o", "json").json["password"]
    assert first != second


def test_two_adds_at_once(stand: Stand, pbxctl: Pbxctl, phone: Any) -> None:
    from controller.api.client import Gate, UnixGate
    from controller.api.listen import socket_path
    from controller.api.shapes import PhoneAddAsk, PhoneCredentials
    from controller.errors import Refused

    ended: list[str] = []

    def add() -> None:
        gate = Gate(UnixGate(socket_path(stand.config)))
        try:
            gate.post(PhoneCredentials, "phones", body=PhoneAddAsk(name="3009"))
            ended.append("made")
        except Refused:
            ended.append("refused")

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["made"] + ["refused"] * 5
    assert phone("3009").code == 4


def test_an_unknown_name_among_several_removes_none(
    stand: Stand, pbxctl: Pbxctl, phone: Any
) -> None:
    assert phone("3011").code == 0
    ran = pbxctl("phones", "remove", "3011", "nobody", "--yes")
    assert (ran.code, "there is no phone 'nobody'" in ran.err) == (2, True)
    assert pbxctl("phones", "show", "3011", "-o", "json").json["state"] != "removing"


def test_a_removed_phone_is_listed_until_its_nodes_have_let_it_go(
    pbxctl: Pbxctl, phone: Any
) -> None:
    phone("3010", "--region", "west")
    ran = pbxctl("phones", "remove", "3010", "--yes", "-o", "json").json
    assert ran[0]["state"] == "removing"
    assert [p["node"] for p in ran[0]["pending"]] == ["w1"]
    assert "3010" in pbxctl("phones", "list", "--pending", "-o", "name").out
    assert pbxctl("phones", "show", "3010").code == 2


def test_dns(pbxctl: Pbxctl) -> None:
    out = pbxctl("phones", "dns", "--region", "east").out
    assert "SRV 10 10 5060 e1" in out
    assert "SRV 20 10 5060 w1" in out
