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

import pytest

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


@pytest.mark.parametrize(
    ("state", "verb", "says"),
    [
        ("pbxctl.yaml", ("up",), "cannot be made"),
        ("pbxctl.yaml", ("run", "gate"), "cannot be made"),
        ("pbxctl.yaml", ("render", "a1"), "cannot be made"),
        ("a" * 100, ("up",), "too long"),
    ],
)
def test_a_state_dir_that_is_of_no_use(
    tmp_path: Path, bare: Pbxctl, state: str, verb: tuple[str, ...], says: str
) -> None:
    assert bare("init", "--demo").code == 0
    file = tmp_path / "pbxctl.yaml"
    file.write_text(file.read_text().replace("state_dir: state", f"state_dir: {state}"))
    ran = bare(*verb)
    assert (ran.code, "pbxctl.yaml: state_dir: " in ran.err) == (2, True), ran.err
    assert says in ran.err
    assert not list(tmp_path.rglob("*.up"))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("redis: {url: 'redis://127.0.0.1:1', users: secrets/redis}", "secrets/redis/driver: "),
        ("redis: {url: 'redis://127.0.0.1:1', password_file: none}", "none: secret cannot be read"),
        ("records: {url: 'postgresql://u@h/b', password_file: none}", "none: secret cannot be"),
        ("vault: {}", "vault: keys is missing"),
    ],
)
def test_a_role_that_could_not_start_is_told_of_before_any_is(
    tmp_path: Path, bare: Pbxctl, lines: str, says: str
) -> None:
    assert bare("init", "--demo").code == 0
    file = tmp_path / "pbxctl.yaml"
    file.write_text(f"{file.read_text()}{lines}\n")
    ran = bare("up")
    assert (ran.code, says in ran.err) == (2, True), ran.err
    assert not list(tmp_path.rglob("*.up")) and not list(tmp_path.rglob("redis.sock"))


def test_an_unknown_role(bare: Pbxctl) -> None:
    assert bare("run", "drivr").code == 2
