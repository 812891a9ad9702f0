"""docker-compose.yml for real: built, started, called, hurt. Minutes, so on demand:

PBXCTL_TEST_DOCKER=1 make test PYTEST_ARGS=tests/deploy
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import wave
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.deploy.engine import TONE_HZ, Compose, engine, free_port
from tests.lab.until import until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.alone,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("PBXCTL_TEST_DOCKER") != "1",
        reason="builds images for minutes: PBXCTL_TEST_DOCKER=1 runs it",
    ),
]
CONNECT = """
import socket
try:
    socket.create_connection(("{host}", {port}), 2).close()
    print("open")
except OSError as error:
    print("closed")
"""
SHOWN = """
import socket, ssl
pki = "/etc/pbxctl/pki/sip/"
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(pki + "ca.pem")
context.load_cert_chain(pki + "driver_probe.pem", pki + "driver_probe.key")
plain = socket.create_connection(("10.213.1.11", 5061), 3)
with context.wrap_socket(plain, server_hostname="10.213.1.11") as link:
    print(link.getpeercert()["serialNumber"])
"""


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    folder = Path(tempfile.mkdtemp(prefix="pbxctl-compose-"))
    try:
        with engine(folder) as environment:
            ports = {f"PBXCTL_{what}": free_port() for what in ("SIP", "GATE", "VAULT", "GRAFANA")}
            found = Compose(folder, environment | ports | {"PBXCTL_MEDIA": "127.0.0.1"})
            found.prepare()
            try:
                found("up", "-d")
                wait_well(found, 120)
                found("run", "--rm", "setup", "pki", "issue", "alice", "--role", "auditor")
                yield found
            finally:
                found("down", "-v", "--remove-orphans", check=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unwell(compose: Compose) -> dict[str, str]:
    states = {name: compose.state(name) for name in compose.services()}
    return {
        n: s["Health"]["Status"] for n, s in states.items() if s["Health"]["Status"] != "healthy"
    }


def wait_well(compose: Compose, timeout_s: float) -> None:
    try:
        until(lambda: not unwell(compose), timeout_s, "every service is healthy")
    except TimeoutError as error:
        bad = unwell(compose)
        raise AssertionError(f"{bad}\n{compose('logs', '--tail', '8', *bad)}") from error


def recordings(compose: Compose, call: str) -> list[dict[str, str]]:
    asked = ("recordings", "list", "--as", "alice", "--call", call, "-o", "json")
    told = compose("run", "--rm", "-T", "cli", *asked)
    found: list[dict[str, str]] = json.loads(told)["recordings"]
    return found


def completed(compose: Compose, call: str) -> list[dict[str, str]]:
    return [r for r in recordings(compose, call) if r["state"] == "complete"]


def recorded_call(compose: Compose, hold_s: float) -> tuple[str, dict[str, str]]:
    """Its id and its recording, complete. A PBX waits 0.3 s for its agent and then goes on without
    a recording, which happens on a machine that builds images beside it: three calls are made."""
    for _ in range(3):
        call = f"{secrets.token_hex(4)}@caller"
        compose.call(call, hold_s)
        with contextlib.suppress(TimeoutError):
            found = until(partial(completed, compose, call), 15, "its recording is complete")
            return call, found[0]
    raise AssertionError(compose("logs", "--tail", "30", "a1-agent", "a2-agent", "vault"))


def test_the_doctor_inside_finds_nothing_wrong(compose: Compose) -> None:
    told = compose("run", "--rm", "-T", "doctor", check=False)
    print(told)
    found = json.loads(compose("run", "--rm", "-T", "doctor", "-o", "json", check=False))
    assert [f for f in found if f["level"] != "ok"] == []
    assert {"redis", "fleet", "a1", "a2", "recordings"} <= {f["about"] for f in found}


def test_containers_have_no_root_no_capability_and_nothing_to_write(compose: Compose) -> None:
    for name in compose.services():
        if name == "grafana":
            continue  # its image's own shell is busybox, and it is not ours
        status = compose.inside(name, "cat", "/proc/1/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == ["10001"] * 4, name
        assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) == 0, name
        assert fields["NoNewPrivs"] == "1", name
        with pytest.raises(AssertionError, match="Read-only file system"):
            compose.inside(name, "touch", "/usr/bin/x")


@pytest.mark.parametrize(
    ("service", "host", "port", "expected"),
    [
        ("gate", "10.213.3.5", 5432, "open"),
        ("vault", "10.213.3.5", 5432, "open"),
        ("steward", "10.213.3.5", 5432, "closed"),
        ("driver", "10.213.3.5", 5432, "closed"),
        ("a1-agent", "10.213.3.5", 5432, "closed"),
        ("a1-agent", "10.213.5.23", 8445, "closed"),
        ("a1-agent", "10.213.2.23", 8446, "open"),
        ("edge-agent", "10.213.2.5", 6379, "open"),
        ("a1-agent", "10.213.4.30", 9090, "closed"),
    ],
)  # fmt: skip
def test_a_zone_is_reached_by_its_members_alone(
    compose: Compose, service: str, host: str, port: int, expected: str
) -> None:
    assert compose.python(service, CONNECT.format(host=host, port=port)) == expected


def test_a_call_is_placed_encrypted_recorded_and_sealed(compose: Compose, tmp_path: Path) -> None:
    call, recording = recorded_call(compose, hold_s=4)
    why = compose.inside("gate", "pbxctl", "calls", "why", call)
    print(why, recording)
    assert "was chosen" in why
    assert "media was found encrypted" in why
    assert 3500 < int(recording["length_ms"]) < 5500
    container = compose("run", "-d", "--entrypoint", "sleep", "cli", "60").split()[-1]
    try:
        compose.docker("exec", container, "pbxctl", "recordings", "export", "--as", "alice",
                       "--into", "/var/lib/pbxctl/x.wav", recording["recording"])  # fmt: skip
        heard = compose.docker("exec", container, "base64", "-w0", "/var/lib/pbxctl/x.wav")
    finally:
        compose.docker("rm", "-f", container)
    assert crossings_hz(heard, tmp_path) == pytest.approx(TONE_HZ, rel=0.05)
    sealed = compose.inside("vault", "find", "/var/lib/pbxctl/vault", "-type", "f")
    assert recording["recording"] in sealed
    assert not compose.inside("a1-agent", "find", "/run/pbxctl/recordings", "-type", "f")


def crossings_hz(wav: str, folder: Path) -> float:
    """Of the caller's channel, by how often it goes through zero."""
    path = folder / "x.wav"
    path.write_bytes(base64.b64decode(wav))
    with wave.open(str(path)) as file:
        left = array("h", file.readframes(file.getnframes()))[::2]
        rate_hz: int = file.getframerate()
    middle = left[rate_hz : 3 * rate_hz]
    up = sum(1 for a, b in itertools.pairwise(middle) if a < 0 <= b)
    return up * rate_hz / len(middle)


def test_a_crashed_pbx_comes_back_to_its_agent(compose: Compose) -> None:
    pid = compose.state("a1")["Pid"]
    subprocess.run(["kill", "-9", str(pid)], check=True)  # on this machine, as a crash would be
    until(lambda: compose.state("a1")["Pid"] not in (0, pid), 30, "a1 is started again")
    wait_well(compose, 90)

    def active() -> bool:
        told = json.loads(compose.inside("gate", "pbxctl", "nodes", "list", "-o", "json"))
        return {n["name"] for n in told["nodes"] if n["state"] == "active"} == {"a1", "a2"}

    until(active, 60, "both nodes are active")
    recorded_call(compose, hold_s=2)


def test_a_renewed_certificate_reaches_the_pbx(compose: Compose) -> None:
    before = compose.python("driver", SHOWN)
    compose("run", "--rm", "setup", "pki", "renew", "a1")
    until(lambda: compose.python("driver", SHOWN) != before, 30, "a1 shows its new certificate")


def test_prometheus_has_every_role_and_the_rules(compose: Compose) -> None:
    def up() -> list[str]:
        told = compose.inside("prometheus", "promtool", "query", "instant", "-o", "json",
                              "http://127.0.0.1:9090", 'up{job="pbxctl"}')  # fmt: skip
        return [sample["value"][1] for sample in json.loads(told)]

    until(lambda: up() == ["1"] * 7, 30, "seven roles are up")
    rules = compose.inside("prometheus", "promtool", "query", "instant", "-o", "json",
                           "http://127.0.0.1:9090", "prometheus_rule_group_rules")  # fmt: skip
    assert len(json.loads(rules)) >= 3


def test_setup_again_changes_nothing(compose: Compose) -> None:
    compose("run", "--rm", "-T", "setup")  # hands out what the tests before had issued
    assert compose("run", "--rm", "-T", "setup").strip() == ""
