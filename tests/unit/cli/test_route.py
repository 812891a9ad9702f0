from __future__ import annotations

from tests.gate_server import Stand
from tests.unit.cli.conftest import Pbxctl


def reserved(stand: Stand) -> int:
    return sum(n.reserved for n in stand.run(stand.playing.fleet.nodes()))


def test_asks_without_placing(stand: Stand, pbxctl: Pbxctl) -> None:
    ran = pbxctl("route", "400123", "--from", "100", "-o", "json")
    assert ran.code == 0
    assert ran.json["node"] in ("e1", "e2")
    assert (ran.json["service"], ran.json["placement"]) == ("queue", "")
    assert reserved(stand) == 0


def test_places_when_told_to(stand: Stand, pbxctl: Pbxctl) -> None:
    ran = pbxctl("route", "400123", "--place", "-o", "json")
    assert ran.json["placement"]
    assert reserved(stand) == 1


def test_a_dry_run_before_the_command_wins_over_place(stand: Stand, pbxctl: Pbxctl) -> None:
    assert pbxctl("--dry-run", "route", "400123", "--place").code == 0
    assert reserved(stand) == 0


def test_says_why_in_words(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.fleet.want("e1", "draining"))
    told = pbxctl("route", "55", "--region", "east").out
    assert "The call would go to e2 (127.0.15.2:5060)" in told
    assert "least load" in told


def test_no_node_is_exit_code_4(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.fleet.want("w1", "ejected"))
    ran = pbxctl("route", "55", "--region", "west")
    assert ran.code == 4
    assert "SIP 503" in ran.out
    assert "no node of west is fit" in ran.err


def test_an_unknown_region_suggests_near_ones(pbxctl: Pbxctl) -> None:
    ran = pbxctl("route", "55", "--region", "eats")
    assert ran.code == 2
    assert "did you mean east" in ran.err
