"""A Docker engine for the test of docker-compose.yml, and the composed system on it.

What is the machine's own stands in an override file: the builds use its network and the authority
of its package index (PIP_CERT), ports are free ones, limits are no higher than it allows.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.compose_file import FILE, TOP, services
from tests.lab.sipp import _ulaw_byte
from tests.lab.until import until

PROJECT = "pbxctl-test"
BASES = ("debian:bookworm-slim", "debian:trixie-slim", "debian:forky-slim")
CALLER = "10.213.1.50"
TONE_HZ = 440
ISSUE = """
import datetime as dt
from pathlib import Path
from controller.config_file import load
from controller.pki.store import open_store
from controller.pki.wanted import Wanted
store = open_store(load(Path("/fleet/pbxctl.yaml")))
store.renew([Wanted("sip", "caller")], dt.datetime.now(dt.UTC))
for path in (store.certificate("sip", "caller"), store.key("sip", "caller")):
    print(path.read_text())
"""


def run(*argv: str | Path, check: bool = True, timeout_s: float = 900, **more: Any) -> str:
    """Standard output. AssertionError with all output when it fails."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, timeout=timeout_s, **more
    )
    if check and done.returncode:
        raise AssertionError(f"{argv[:6]} ended with {done.returncode}:\n{done.stdout[-6000:]}"
                             f"\n{done.stderr[-4000:]}")  # fmt: skip
    return done.stdout


@contextmanager
def engine(folder: Path) -> Iterator[dict[str, str]]:
    """The environment that reaches an engine: the machine's, or one of our own in `folder`."""
    if not shutil.which("docker") or not _compose():
        pytest.skip("docker and docker-compose are not installed (docker.io, docker-compose)")
    if _answers(dict(os.environ)):
        yield dict(os.environ)
        return
    if not shutil.which("dockerd") or os.geteuid():
        pytest.skip("no Docker engine answers, and we cannot start one: no dockerd, or not root")
    own = dict(os.environ) | {"DOCKER_HOST": f"unix://{folder}/docker.sock"}
    with (folder / "dockerd.log").open("w") as log:
        process = subprocess.Popen(
            ["dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec",
             "--pidfile", folder / "pid", "--bridge", "none", "-H", own["DOCKER_HOST"]],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            until(lambda: _answers(own), 60, "our dockerd answers")
            yield own
        finally:
            process.terminate()
            process.wait(60)


def _answers(environment: dict[str, str]) -> bool:
    done = subprocess.run(["docker", "info"], capture_output=True, env=environment)
    return done.returncode == 0


def _compose() -> list[str]:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    done = subprocess.run(["docker", "compose", "version"], capture_output=True)
    return ["docker", "compose"] if done.returncode == 0 else []


@dataclass(frozen=True)
class Compose:
    """The composed system. environment: reaches its engine."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *argv: str | Path, **more: Any) -> str:
        return run(
            *_compose(), "-p", PROJECT, "-f", FILE, "-f", self.folder / "override.yml", *argv,
            env=self.environment, cwd=TOP, **more,
        )  # fmt: skip

    def docker(self, *argv: str | Path, **more: Any) -> str:
        return run("docker", *argv, env=self.environment, **more)

    def container(self, service: str) -> str:
        """Its id, "" where there is none. Compose itself takes seconds to say it."""
        labels = {"project": PROJECT, "service": service, "oneoff": "False"}
        wanted = [f"--filter=label=com.docker.compose.{k}={v}" for k, v in labels.items()]
        return self.docker("ps", "-aq", "--no-trunc", *wanted).strip()

    def inside(self, service: str, *argv: str, **more: Any) -> str:
        return self.docker("exec", self.container(service), *argv, **more)

    def python(self, service: str, code: str, **more: Any) -> str:
        return self.inside(service, "python3", "-c", code, **more).strip()

    def state(self, service: str) -> dict[str, Any]:
        (found,) = json.loads(self.docker("inspect", self.container(service)))
        state: dict[str, Any] = found["State"]
        return state

    def services(self) -> list[str]:
        """Those that run on and on."""
        names = self("config", "--services").split()
        return [n for n in names if services()[n]["restart"] != "no" and self.container(n)]

    def prepare(self) -> None:
        """Images, and the override file that they are built with. Takes minutes the first time."""
        for base in BASES:
            found = self.docker("images", "-q", base) or self.docker("pull", base, check=False)
            if not found:
                pytest.skip(f"{base} cannot be had: no registry, and it was not imported")
        override: dict[str, Any] = {}
        debian = self._debian()
        for name, service in services().items():
            if "build" in service and "profiles" not in service:
                override[name] = {"build": {"network": "host"}}
                if service["image"].startswith("pbxctl/pbxctl:"):
                    override[name]["build"]["args"] = {"DEBIAN": debian}
            if "ulimits" in service:
                hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
                override.setdefault(name, {})["ulimits"] = {"memlock": hard}
        grafana = services()["grafana"]["image"]
        if not self.docker("images", "-q", grafana):
            self.docker("pull", grafana, check=False)
        if not self.docker("images", "-q", grafana):
            override["grafana"] = {"profiles": ["not-here"]}
        (self.folder / "override.yml").write_text(yaml.safe_dump({"services": override}))
        self("build", timeout_s=1500)
        self.docker("build", "--network", "host", "-t", "pbxctl-test/caller",
                    TOP / "tests" / "deploy" / "caller")  # fmt: skip

    def _debian(self) -> str:
        """The base of our image: with the machine's authority for its package index, if any."""
        authority = os.environ.get("PIP_CERT")
        if not authority:
            return BASES[0]
        folder = self.folder / "base"
        folder.mkdir()
        shutil.copy(authority, folder / "ca.crt")
        (folder / "Dockerfile").write_text(
            f"FROM {BASES[0]}\nCOPY ca.crt /usr/local/share/index.crt\n"
            "ENV PIP_CERT=/usr/local/share/index.crt\n"
        )
        self.docker("build", "-t", "pbxctl-test/debian", folder)
        return "pbxctl-test/debian"

    def call(self, call_id: str, hold_s: float) -> None:
        """SIPp calls 9196 through the edge by TLS and SRTP; AssertionError when it fails."""
        scenario = self.folder / "scenario"
        scenario.mkdir(exist_ok=True)
        pem = self(
            "run", "--rm", "--no-deps", "-T", "--entrypoint", "python3", "setup", "-c", ISSUE
        )
        parts = re.findall(r"-----BEGIN.*?-----END[^-]*-----\n", pem, re.S)
        tone = bytes(
            _ulaw_byte(int(9000 * math.sin(2 * math.pi * TONE_HZ * i / 8000))) for i in range(8000)
        )
        for name, content in {
            "cert.pem": parts[0].encode(),
            "key.pem": parts[1].encode(),
            "tone.ulaw": tone,
            "call.xml": (TOP / "tests" / "deploy" / "caller" / "call.xml").read_bytes(),
        }.items():
            path = scenario / name
            path.write_bytes(content)
            path.chmod(0o644)
        scenario.chmod(0o755)
        self.docker(
            "run", "--rm", "--network", f"{PROJECT}_edge", "--ip", CALLER, "--read-only",
            "--tmpfs", "/tmp:uid=10001", "-v", f"{scenario}:/scenario:ro", "pbxctl-test/caller",
            "10.213.1.10:5061", "-sf", "/scenario/call.xml", "-s", "9196", "-t", "l1",
            "-tls_cert", "/scenario/cert.pem", "-tls_key", "/scenario/key.pem", "-i", CALLER,
            "-m", "1", "-d", str(round(hold_s * 1000)), "-cid_str", call_id, "-nostdin",
            timeout_s=60,
        )  # fmt: skip


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
