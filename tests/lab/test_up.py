"""`pbxctl up`: the embedded control plane as an operator starts, breaks and stops it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.model import NodeState, Placed
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import REPOSITORY, LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]


class Up:
    """A running `pbxctl up`; its log names the pid of each role."""

    def __init__(self, fleet: LabFleet) -> None:
        self.fleet = fleet
        self.log = fleet.folder / "up.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "controller.cli", "--config", fleet.config_path, "up"],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                cwd=REPOSITORY,
            )

    def pids(self) -> dict[str, int]:
        """Role to the pid it has now."""
        found = re.findall(r"up: (\w+) runs, pid (\d+)", self.log.read_text())
        return {role: int(pid) for role, pid in found}

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(15)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def up(lab: Lab) -> Iterator[Up]:
    nodes: dict[Asterisk | FreeSwitch, str] = {
        lab.asterisk("e1"): "east",
        lab.asterisk("w1"): "west",
    }
    with LabFleet(lab, nodes, None) as fleet:
        running = Up(fleet)
        try:
            until(lambda: {"redis", "driver", "steward", "gate"} <= set(running.pids()), 15, "up")
            until(lambda: (fleet.folder / "state" / "redis.sock").exists(), 10, "redis listens")
            fleet.until_active()
            yield running
        finally:
            if running.process.poll() is None:
                running.end()


@pytest.mark.parametrize("role", ["driver", "steward", "gate", "redis"])
def test_a_killed_role_is_back_and_no_call_notices(up: Up, role: str) -> None:
    calls = up.fleet.lab.calls(up.fleet.nodes["e1"].sip, count=2, hold_s=10)
    calls.wait_answered(2)
    before = up.pids()[role]
    os.kill(before, signal.SIGKILL)
    killed_s = time.monotonic()
    until(lambda: up.pids()[role] != before, 2, f"{role} runs again")
    assert time.monotonic() - killed_s < 1
    up.fleet.until_active(10)
    until(lambda: up.fleet.view("e1").calls == 2, 10, "the calls are in the picture")
    assert isinstance(up.fleet.route("after"), Placed)
    assert calls.result().completed == 2


def test_it_stops_in_order_and_leaves_calls_alone(up: Up) -> None:
    calls = up.fleet.lab.calls(up.fleet.nodes["w1"].sip, hold_s=6)
    calls.wait_answered(1)
    pids = up.pids()
    assert up.end() == 0
    assert not [role for role, pid in pids.items() if alive(pid)]
    assert calls.result().completed == 1


def test_its_death_is_the_death_of_its_roles(up: Up) -> None:
    pids = up.pids()
    up.process.kill()
    until(lambda: not [r for r, pid in pids.items() if alive(pid)], 8, "all roles ended")


def test_a_second_one_is_refused(up: Up) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "controller.cli", "--config", up.fleet.config_path, "up"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=20,
    )
    assert second.returncode == 2
    assert "another `pbxctl up` runs" in second.stderr
    up.fleet.until_state("e1", NodeState.ACTIVE)
