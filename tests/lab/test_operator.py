"""An operator's day on real PBXs: every command a process of its own, as from a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from controller.model import NodeState
from tests.lab.fleet import REPOSITORY, LabFleet
from tests.lab.lab import Lab
from tests.lab.node import write_secret
from tests.lab.rendered import put_rendered
from tests.lab.until import until

pytestmark = pytest.mark.lab


def pbxctl(fleet: LabFleet, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller.cli", *argv],
        cwd=REPOSITORY,
        env={**os.environ, "PBXCTL_CONFIG": str(fleet.config_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def answer(fleet: LabFleet, *argv: str) -> Any:
    ran = pbxctl(fleet, *argv, "-o", "json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def findings(fleet: LabFleet) -> dict[tuple[str, str], dict[str, str]]:
    found = json.loads(pbxctl(fleet, "doctor", "-o", "json").stdout)
    return {(f["about"], f["check"]): f for f in found}


@pytest.fixture
def fleet(lab: Lab) -> Iterator[LabFleet]:
    with LabFleet(lab, {lab.asterisk("e1"): "east"}, lab.redis(), calls_max=20) as running:
        for role in ("driver", "steward", "gate"):
            running.start(role)
        running.until_active()
        until(lambda: pbxctl(running, "nodes", "list").returncode == 0, 10, "the gate answers")
        yield running


def calls_of(fleet: LabFleet) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = answer(fleet, "calls", "list")["calls"]
    return listed


def test_calls_are_seen_explained_and_hung_up(lab: Lab, fleet: LabFleet) -> None:
    running = lab.calls(fleet.nodes["e1"], count=2, hold_s=30)
    until(lambda: [c["answered_ms"] > 0 for c in calls_of(fleet)] == [True] * 2, 10, "answered")
    first, second = calls_of(fleet)
    assert first["caller"] == "sipp"
    told = pbxctl(fleet, "calls", "why", first["key"]).stdout
    assert "did not place this call" in told
    assert "is up" in told
    assert answer(fleet, "calls", "hangup", first["key"], "--yes")["state"] == "done"
    until(lambda: [c["key"] for c in calls_of(fleet)] == [second["key"]], 5, "one is left")
    assert "It ended after" in pbxctl(fleet, "calls", "why", first["key"]).stdout
    assert pbxctl(fleet, "calls", "hangup", first["key"], "--yes").returncode == 4
    running.stop()


def test_a_drained_pbx_refuses_new_calls_itself(lab: Lab, fleet: LabFleet) -> None:
    (done,) = answer(fleet, "nodes", "drain", "e1", "--yes")
    assert (done["pbx"], done["want"]) == ("done", "draining")
    assert lab.calls(fleet.nodes["e1"], count=1).result().answered == 0
    assert pbxctl(fleet, "route", "400").returncode == 4
    (done,) = answer(fleet, "nodes", "resume", "e1", "--yes")
    assert done["pbx"] == "done"
    fleet.until_state("e1", NodeState.ACTIVE)
    assert lab.calls(fleet.nodes["e1"], count=1).result().answered == 1
    assert pbxctl(fleet, "route", "400", "-o", "name").stdout == "e1\n"


def test_doctor_finds_what_is_wrong_with_a_node(lab: Lab, fleet: LabFleet) -> None:
    found = findings(fleet)
    assert {f["check"] for f in found.values() if f["about"] == "e1"} == {
        "secret", "placement", "sip", "control port", "login", "version", "limit", "rights",
        "modules", "clock",
    }  # fmt: skip
    assert [f for f in found.values() if f["level"] == "fail"] == []

    secret = fleet.config.path(fleet.config.nodes["e1"].password_file)
    right = secret.read_text()
    secret.unlink()
    write_secret(secret, "not-its-word")
    found = findings(fleet)
    assert found["e1", "login"]["level"] == "fail"
    assert "not-its-word" not in json.dumps([*found.values()])
    secret.write_text(right)

    fleet.nodes["e1"].freeze()
    found = findings(fleet)
    assert (found["e1", "sip"]["level"], found["e1", "login"]["level"]) == ("fail", "fail")
    fleet.nodes["e1"].thaw()
    fleet.nodes["e1"].kill()
    found = findings(fleet)
    assert found["e1", "control port"]["level"] == "fail"
    assert found["e1", "placement"]["level"] == "fail"


@pytest.mark.freeswitch
def test_doctor_looks_into_freeswitch(lab: Lab) -> None:
    with LabFleet(lab, {lab.freeswitch("f1"): "east"}, lab.redis()) as fleet:
        found = findings(fleet)
        for check in (
            "secret",
            "sip",
            "control port",
            "login",
            "limit",
            "heartbeat",
            "modules",
            "cpu",
        ):
            assert found["f1", check]["level"] == "ok", found["f1", check]
        assert found["fleet", "drivers"]["level"] == "fail"


def test_originate_rings_one_number_and_connects_it_to_the_other(lab: Lab) -> None:
    node = lab.asterisk("o1")
    settings = {"numbers": [{"prefix": "9", "service": "echo"}]}
    with LabFleet(lab, {node: "east"}, lab.redis(), user="fleet", settings=settings) as fleet:
        put_rendered(fleet.config, node)
        for role in ("driver", "steward", "gate"):
            fleet.start(role)
        fleet.until_active()
        until(lambda: pbxctl(fleet, "nodes", "list").returncode == 0, 10, "the gate answers")
        done = answer(fleet, "calls", "originate", "--to", "91", "--from", "92", "--yes")
        assert done["state"] == "done"
        until(lambda: [c["answered_ms"] > 0 for c in calls_of(fleet)] == [True], 10, "answered")
        (call,) = calls_of(fleet)
        assert (call["call_id"], call["placement"]) == (done["call_id"], done["placement"])
        assert fleet.view("o1").reserved == 0
        assert "from 92 to 91" in pbxctl(fleet, "calls", "why", call["key"]).stdout
        assert pbxctl(fleet, "calls", "hangup", call["key"], "--yes").returncode == 0
        until(lambda: calls_of(fleet) == [], 5, "it is over")
