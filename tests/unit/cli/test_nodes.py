from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
import yaml

from controller.api.client import Gate
from controller.errors import LinkLost
from controller.fleet import commands
from controller.fleet.commands import CommandResult
from controller.fleet.state import Beat
from tests.gate_server import Stand
from tests.unit.cli.conftest import Pbxctl


def test_list_shows_every_node_with_its_calls(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.start("e1", 7))
    ran = pbxctl("nodes", "list")
    assert ran.code == 0
    rows = {line.split()[0]: line.split() for line in ran.out.splitlines()}
    assert rows["e1"][1:3] == ["east", "active"]
    assert "7+0/100" in rows["e1"]
    assert list(rows) == ["NODE", "e1", "e2", "w1"]


def test_every_format_tells_the_same(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.start("e2", 3))
    as_json = pbxctl("nodes", "list", "-o", "json").json
    as_yaml = yaml.safe_load(pbxctl("-o", "yaml", "nodes", "list").out)
    calls = {n["name"]: n["calls"] for n in as_json["nodes"]}
    assert calls == {"e1": 0, "e2": 3, "w1": 0}
    assert {n["name"]: n["calls"] for n in as_yaml["nodes"]} == calls
    assert pbxctl("nodes", "list", "-o", "name").out == "e1\ne2\nw1\n"
    assert "127.0.15.2:5060" in pbxctl("nodes", "list", "-o", "wide").out


def test_filters(pbxctl: Pbxctl) -> None:
    assert pbxctl("nodes", "list", "--region", "west", "-o", "name").out == "w1\n"
    ran = pbxctl("nodes", "list", "--state", "ejected")
    assert (ran.code, ran.out) == (0, "")
    assert "no such node" in ran.err


def test_drain_tells_placement_and_the_pbx(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.start("e1", 2))
    ran = pbxctl("nodes", "drain", "e1", "--yes", "-o", "json")
    assert ran.code == 0
    assert ran.json == [
        {
            "node": "e1", "action": "drain", "before": "active", "want": "draining", "calls": 2,
            "dry_run": False, "pbx": "done", "message": "",
        }
    ]  # fmt: skip
    assert stand.playing.told == [commands.Drain()]
    assert pbxctl("nodes", "show", "e1", "-o", "json").json["state"] == "draining"
    assert pbxctl("nodes", "resume", "e1", "--yes").code == 0
    assert stand.playing.told == [commands.Drain(), commands.Resume()]
    assert pbxctl("nodes", "show", "e1", "-o", "json").json["state"] == "active"


def test_eject_and_standby_speak_to_placement_alone(stand: Stand, pbxctl: Pbxctl) -> None:
    assert pbxctl("nodes", "eject", "e1", "--yes").code == 0
    assert pbxctl("nodes", "standby", "e2", "--yes").code == 0
    seen = {n["name"]: n["want"] for n in pbxctl("nodes", "list", "-o", "json").json["nodes"]}
    assert seen == {"e1": "ejected", "e2": "standby", "w1": "active"}
    assert stand.playing.told == []


def test_dry_run_changes_nothing(stand: Stand, pbxctl: Pbxctl) -> None:
    ran = pbxctl("nodes", "drain", "e1", "--dry-run")
    assert "would go from active to draining" in ran.err
    assert pbxctl("nodes", "show", "e1", "-o", "json").json["want"] == "active"
    assert stand.playing.told == []


def test_nobody_to_ask_is_wrong_usage(stand: Stand, pbxctl: Pbxctl) -> None:
    ran = pbxctl("nodes", "drain", "e1", "-o", "json")
    assert (ran.code, ran.error["exit_code"]) == (2, 2)
    assert "--yes" in ran.error["hint"]
    assert pbxctl("nodes", "show", "e1", "-o", "json").json["want"] == "active"


def test_an_unknown_name_among_several_leaves_all_as_they_are(stand: Stand, pbxctl: Pbxctl) -> None:
    ran = pbxctl("nodes", "drain", "e1", "nobody", "--yes", "-o", "json")
    assert (ran.code, ran.out, ran.error["kind"]) == (2, "", "NotFound")
    assert pbxctl("nodes", "show", "e1", "-o", "json").json["want"] == "active"


def test_what_was_done_before_an_error_is_told(
    stand: Stand, pbxctl: Pbxctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = Gate.post

    def lost(self: Gate, kind: Any, *path: str, body: msgspec.Struct) -> Any:
        if "e2" in path:
            raise LinkLost("the gate went away")
        return post(self, kind, *path, body=body)

    monkeypatch.setattr(Gate, "post", lost)
    ran = pbxctl("nodes", "eject", "e1", "e2", "--yes", "-o", "json")
    assert (ran.code, [done["node"] for done in ran.json]) == (3, ["e1"])
    ran = pbxctl("nodes", "resume", "e1", "e2", "--yes", "-o", "name")
    assert (ran.code, ran.out) == (3, "e1\n")


def test_a_pbx_that_refuses_is_told(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.playing.answer = lambda _: CommandResult("failed", "too old to drain")
    ran = pbxctl("nodes", "drain", "e1", "--yes")
    assert ran.code == 0
    assert "the PBX itself was not told (failed: too old to drain)" in ran.err


def test_an_unknown_name_suggests_near_ones(pbxctl: Pbxctl) -> None:
    ran = pbxctl("nodes", "show", "e11", "-o", "json")
    assert ran.code == 2
    assert ran.error["kind"] == "NotFound"
    assert "e1" in ran.error["hint"]
    ran = pbxctl("nodes", "drian", "e1")
    assert ran.code == 2
    assert "Did you mean drain" in ran.err


def test_hostile_text_stays_text(stand: Stand, pbxctl: Pbxctl) -> None:
    problem = "bye\x1b]0;pwned\x07[bold]\u202ex\r\nforged"
    lease = stand.playing.leases.pop("e1")  # nobody beats for it any more
    stand.run(stand.playing.fleet.beat(lease, Beat(False, problem=problem)))
    for output in ("table", "wide"):
        ran = pbxctl("nodes", "list", "-o", output)
        assert r"bye\x1b]0;pwned\x07[bold]\u202ex\x0d\x0aforged" in ran.out
    for output in ("table", "json", "yaml"):
        assert "\x1b" not in pbxctl("nodes", "show", "e1", "-o", output).out
    assert pbxctl("nodes", "show", "e1", "-o", "json").json["problem"] == problem


def test_a_node_that_no_driver_took_is_shown(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.fleet.forget(["w1"]))
    stand.playing.leases.pop("w1")
    seen = {n["name"]: n for n in pbxctl("nodes", "list", "-o", "json").json["nodes"]}
    assert seen["w1"]["state"] == "down"
    assert seen["w1"]["reason"] == "no driver has taken it yet"


def test_a_gate_that_is_away_is_unreachable(bare: Pbxctl, stand: Stand) -> None:
    away = stand.folder / "away.yaml"
    away.write_text(stand.file.read_text().replace("state_dir: state", "state_dir: elsewhere"))
    ran = bare("--config", str(away), "nodes", "list", "-o", "json")
    assert ran.code == 3
    assert "pbxctl run gate" in ran.error["hint"]


def test_the_answer_comes_fast(pbxctl: Pbxctl) -> None:
    begun = time.monotonic()
    assert pbxctl("nodes", "list").code == 0
    assert time.monotonic() - begun < 1
