"""Progress and watches, against a gate that is slow or comes and goes."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.gate_server import Stand, write_config

ROOT = Path(__file__).parents[3]


@contextmanager
def silent_gate(folder: Path) -> Iterator[Path]:
    """A socket that takes connections and never answers; yields the config that leads to it."""
    file = write_config(folder, "unix:///nowhere")
    (folder / "state").mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "state" / "gate.sock"))
        sock.listen(8)
        yield file


def started(file: Path, stderr: int, *argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "controller.cli", *argv],
        cwd=ROOT,
        env={**os.environ, "PBXCTL_CONFIG": str(file)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_what_takes_long_shows_that_it_goes_on(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    with silent_gate(tmp_path) as file:
        process = started(file, follower, "nodes", "list")
        try:
            begun = time.monotonic()
            seen = b""
            while b"asking the gate" not in seen:
                seen += os.read(leader, 1024)
            assert time.monotonic() - begun >= 1
        finally:
            ended(process)
            os.close(leader)
            os.close(follower)


SLOW = """
import time
from controller.cli.session import Session
from controller.cli.waiting import waiting
shares = iter((None, 0.42, 1.0))
with waiting(Session(), "reading", lambda: next(shares)):
    time.sleep(3.5)
"""


def test_how_much_is_done_is_shown_where_it_is_known() -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", SLOW], cwd=ROOT, stderr=follower)
    os.close(follower)
    seen = b""
    try:
        while b"100%" not in seen:
            seen += os.read(leader, 1024)
    finally:
        ended(process)
        os.close(leader)
    assert seen.index(b"| reading \r") < seen.index(b"reading  42%") < seen.index(b"reading 100%")


def test_a_watch_in_json_tells_errors_in_json(tmp_path: Path) -> None:
    file = write_config(tmp_path, "unix:///nowhere")
    process = started(file, subprocess.PIPE, "nodes", "list", "-o", "json", "-w", "0.2")
    try:
        assert process.stderr
        assert json.loads(process.stderr.readline())["error"]["exit_code"] == 3
    finally:
        ended(process)


def test_a_watch_outlives_the_gate(stand: Stand, tmp_path: Path) -> None:
    file = write_config(tmp_path, stand.redis.url)  # a state_dir in which no gate is yet
    process = started(file, subprocess.PIPE, "nodes", "list", "-o", "name", "-w", "0.2")
    try:
        assert process.stderr
        assert process.stdout
        assert b"does not answer" in process.stderr.readline()
        (tmp_path / "state").symlink_to(stand.config.state_path)
        assert process.stdout.readline() == b"e1\n"
    finally:
        ended(process)
