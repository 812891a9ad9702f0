"""The units of deploy/systemd, by systemd's own judgement, and what a role tells it."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.roles.start import ROLES
from tests.redis_server import RedisServer
from tests.vault_server import free_port, quick_keys

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = REPOSITORY / "deploy" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
EXPOSURE_MAX = 2.0
WATCHDOG_US = 300_000
CONFIG = """\
fleet: test
regions: {{east: {{}}}}
nodes:
  n1: {{kind: asterisk, region: east, sip: "127.0.16.1:5061", control: "127.0.16.1:5039",
       password_file: secret}}
security: {{signalling: plain, media: plain, control: plain}}
metrics: {{first_port: 0}}
agent: {{port: {agent}}}
redis: {redis}
state_dir: state
vault:
  ingest: "127.0.0.1:{ingest}"
  listen: "127.0.0.1:{listen}"
  keys: {{provider: file, passphrase_file: secret}}
"""


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the units that names a program which is there, as systemd looks for it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine (Debian: systemd)")
    folder = tmp_path_factory.mktemp("units")
    shutil.copytree(UNITS, folder, dirs_exist_ok=True)
    for path in folder.glob("*.service"):
        text = path.read_text().replace("/opt/pbxctl/bin/pbxctl", "/bin/true")
        path.write_text(text)
    return folder


def analyze(units: Path, *words: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *words],
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{units}:", "SYSTEMD_COLORS": "0"},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def settings(unit: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNITS / unit)
    return parser


def test_each_role_has_its_unit() -> None:
    named = {re.sub(r"pbxctl-(\w+)\.service", r"\1", name) for name in SERVICES}
    assert named == {*ROLES, "up"}
    for name in SERVICES:
        command = settings(name)["Service"]["ExecStart"].split()
        role = name.removeprefix("pbxctl-").removesuffix(".service")
        assert command[1:3] == (["up"] if role == "up" else ["run", role]), name


@pytest.mark.parametrize("unit", [*SERVICES, "pbxctl.target"])
def test_systemd_finds_nothing_wrong(units: Path, unit: str) -> None:
    assert analyze(units, "verify", "--man=no", str(units / unit)) == ""


def test_systemd_would_find_what_is_wrong(units: Path, tmp_path: Path) -> None:
    shutil.copytree(units, tmp_path, dirs_exist_ok=True)
    wrong = tmp_path / "pbxctl-gate.service"
    wrong.write_text(wrong.read_text() + "[Service]\nProtectSytem=strict\n")
    assert "ProtectSytem" in analyze(tmp_path, "verify", "--man=no", str(wrong))


@pytest.mark.parametrize("unit", SERVICES)
def test_little_is_exposed(units: Path, unit: str) -> None:
    told = analyze(units, "security", "--offline=yes", "--no-pager", str(units / unit))
    found = re.search(r"exposure level for .*: ([\d.]+)", told)
    assert found, told
    assert float(found[1]) <= EXPOSURE_MAX, told


def test_the_common_part_takes_no_unit_its_own_rights() -> None:
    """It is read after the units: an empty list in it would undo theirs."""
    common = (UNITS / "pbxctl-.service.d" / "10-pbxctl.conf").read_text()
    assert not re.findall(r"^\w+=$", common, re.M)
    assert "CAP_NET_RAW" in settings("pbxctl-agent.service")["Service"]["CapabilityBoundingSet"]
    for name in set(SERVICES) - {"pbxctl-agent.service"}:
        assert settings(name)["Service"]["CapabilityBoundingSet"] == "", name


def test_users_folders_and_units_fit(tmp_path: Path) -> None:
    """As the installer runs them, into a folder of its own."""
    (tmp_path / "etc").mkdir()
    for name in ("sysusers", "tmpfiles"):
        if os.geteuid() or shutil.which(f"systemd-{name}") is None:
            pytest.skip("needs root and systemd's own programs")
        place = tmp_path / "usr" / "lib" / f"{name}.d"
        place.mkdir(parents=True)
        shutil.copy(UNITS / f"pbxctl.{name}", place / "pbxctl.conf")
        create = ["--create"] if name == "tmpfiles" else []
        done = subprocess.run(
            [f"systemd-{name}", f"--root={tmp_path}", *create, "pbxctl.conf"],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, done.stderr if name == "sysusers" else "")
    users = {
        line.split(":")[0]: int(line.split(":")[2])
        for line in (tmp_path / "etc" / "passwd").read_text().splitlines()
    }
    for name in SERVICES:
        service = settings(name)["Service"]
        user, config = service["User"], Path(service["Environment"].partition("=")[2])
        assert settings(name)["Unit"]["ConditionPathExists"] == str(config)
        assert service["StateDirectory"] == config.parent.name == user
        for part in ("secrets", "pki"):
            folder = (tmp_path / config.relative_to("/")).parent / part
            facts = folder.stat()
            assert (facts.st_uid, facts.st_mode & 0o777) == (users[user], 0o700), folder


class Listener:
    """systemd's side of the notify socket; heard: (pid of who spoke, its word), in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        self.heard: list[tuple[int, str]] = []

    def until(self, word: str, timeout_s: float) -> float:
        """Waits for the next such word; how long that took, in seconds."""
        began_s = time.monotonic()
        while True:
            left_s = began_s + timeout_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no {word} in {timeout_s} s, but {self.heard}")
            self._socket.settimeout(left_s)
            try:
                data, extra, _, _ = self._socket.recvmsg(256, 64)
            except TimeoutError:
                continue
            self.heard.append((int.from_bytes(extra[0][2][:4], sys.byteorder), data.decode()))
            if data.decode() == word:
                return time.monotonic() - began_s

    def close(self) -> None:
        self._socket.close()


@contextmanager
def told(tmp_path: Path, *command: str, redis: str) -> Iterator[tuple[int, Listener]]:
    """`pbxctl COMMAND` under a notify socket: its pid, and who listens."""
    (tmp_path / "secret").write_text("a long passphrase\n")
    (tmp_path / "secret").chmod(0o600)
    file = tmp_path / "pbxctl.yaml"
    ports = {"agent": free_port(), "ingest": free_port(), "listen": free_port()}
    file.write_text(CONFIG.format(redis=redis, **ports))
    quick_keys(tmp_path / "state/vault", "a long passphrase")
    pbxctl = [sys.executable, "-m", "controller.cli", "--config", str(file)]
    subprocess.run([*pbxctl, "pki", "renew"], check=True, cwd=REPOSITORY, capture_output=True)
    listener = Listener(tmp_path / "notify")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*pbxctl, *command],
            cwd=REPOSITORY,
            env=os.environ
            | {"NOTIFY_SOCKET": str(listener.path), "WATCHDOG_USEC": str(WATCHDOG_US)},
            stdout=log,
            stderr=log,
        )
    try:
        yield process.pid, listener
        assert process.wait(15) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
        listener.close()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_says_ready_alive_and_stopping(tmp_path: Path, role: str) -> None:
    with RedisServer() as server:
        settings = f'{{url: "{server.url}"}}'
        with told(tmp_path, "run", role, redis=settings) as (pid, systemd):
            systemd.until("READY=1", 15)
            systemd.until("WATCHDOG=1", 2)
            assert systemd.until("WATCHDOG=1", 2) < WATCHDOG_US / 1e6
            os.kill(pid, signal.SIGTERM)
            systemd.until("STOPPING=1", 5)
        assert {who for who, _ in systemd.heard} == {pid}


def test_a_role_is_ready_without_redis(tmp_path: Path) -> None:
    """Else a machine that starts before its Redis would be restarted for ever."""
    nobody = f'{{url: "unix://{tmp_path}/nobody"}}'
    with told(tmp_path, "run", "driver", redis=nobody) as (pid, systemd):
        systemd.until("READY=1", 15)
        os.kill(pid, signal.SIGTERM)


def test_the_supervisor_alone_speaks(tmp_path: Path) -> None:
    with told(tmp_path, "up", redis="{}") as (pid, systemd):
        systemd.until("READY=1", 15)
        for _ in range(20):  # in which its children have long been ready
            systemd.until("WATCHDOG=1", 2)
        os.kill(pid, signal.SIGTERM)
        systemd.until("STOPPING=1", 5)
    assert {who for who, _ in systemd.heard} == {pid}


def test_a_role_that_hangs_is_not_said_to_be_alive(tmp_path: Path) -> None:
    with RedisServer() as server:
        settings = f'{{url: "{server.url}"}}'
        with told(tmp_path, "run", "gate", redis=settings) as (pid, systemd):
            systemd.until("READY=1", 15)
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(TimeoutError):
                    for _ in range(9):
                        systemd.until("WATCHDOG=1", 2 * WATCHDOG_US / 1e6)
            finally:
                os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGTERM)
