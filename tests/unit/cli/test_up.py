"""The gate as a process of its own, by the command that the supervisor runs it with.

`pbxctl up` as a whole is tests/lab's subject.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.gate_server import write_config
from tests.redis_server import RedisServer
from tests.unit.cli.conftest import Pbxctl

ROOT = Path(__file__).parents[3]


def test_run_serves_until_sigterm(tmp_path: Path, bare: Pbxctl) -> None:
    with RedisServer() as redis:
        file = write_config(tmp_path, redis.url)
        gate = subprocess.Popen(
            [sys.executable, "-m", "controller.cli", "--config", str(file), "run", "gate"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + 15
            while (ran := bare("--config", str(file), "nodes", "list")).code == 3:
                assert time.monotonic() < deadline
                assert gate.poll() is None
                time.sleep(0.05)
            assert ran.code == 0
            gate.send_signal(signal.SIGTERM)
            assert gate.wait(10) == 0
        finally:
            gate.kill()
            gate.communicate()
    assert not (tmp_path / "state" / "gate.sock").exists()


def test_a_wrong_config_starts_nothing(tmp_path: Path, bare: Pbxctl) -> None:
    file = tmp_path / "pbxctl.yaml"
    file.write_text("fleet: x\nnodez: {}\n")
    for argv in (("up",), ("run", "driver"), ("run", "gate")):
        ran = bare("--config", str(file), *argv)
        assert ran.code == 2, os.fspath(file)
        assert f"{file}:" in ran.err
    assert not (tmp_path / "state").exists()


def test_an_unknown_role(bare: Pbxctl) -> None:
    assert bare("run", "drivr").code == 2
