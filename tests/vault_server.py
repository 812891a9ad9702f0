"""A vault in a process of its own, with certificates for nodes and people, and an agent's hand."""

from __future__ import annotations

import ctypes
import datetime as dt
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from controller.api.client import Gate, TlsGate
from controller.config_file import parse
from controller.errors import PbxctlError
from controller.pki.store import open_store, person, renew_due
from controller.vault import wire
from controller.vault.keys import file
from controller.vault.wire import Ack, Frame, State
from tests.sealed import Recording

CONFIG = """\
fleet: test
regions: {{east: {{}}}}
nodes:
  n1: {{kind: asterisk, region: east, sip: "127.0.18.1:5061", control: "127.0.18.1:5039",
       password_file: secret}}
  n2: {{kind: asterisk, region: east, sip: "127.0.18.2:5061", control: "127.0.18.2:5039",
       password_file: secret}}
edges: {{k1: {{region: east, sip: "127.0.18.3:5061"}}}}
metrics: {{host: 127.0.0.1, first_port: {metrics}}}
state_dir: state
vault:
  ingest: "127.0.0.1:{ingest}"
  listen: "127.0.0.1:{listen}"
  keys: {{provider: file, passphrase_file: passphrase}}
  free_min_mb: 0
  {more}
"""
PEOPLE = {
    "olga": ("operator",),
    "anna": ("auditor",),
    "carl": ("custodian",),
    "both": ("auditor", "custodian"),
    "none": (),
}
READY_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def quick_keys(folder: Path, passphrase: str) -> None:
    """A key file whose scrypt costs little: what it costs is tested where it is made."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / "keys.json").exists():
        file.create(folder / "keys.json", passphrase, log_n=14)


def _end_with_parent() -> None:
    # PR_SET_PDEATHSIG: a test run that is killed leaves no vault behind
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class VaultServer:
    """Its config's folder, and the process while it runs. more: lines of the vault section."""

    def __init__(self, folder: Path, more: str = "", env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.ingest, self.listen = free_port(), free_port()
        self.metrics = free_port()
        for name in ("secret", "passphrase"):
            (folder / name).write_text("correct horse battery\n")
            (folder / name).chmod(0o600)
        self.file = folder / "pbxctl.yaml"
        text = CONFIG.format(
            ingest=self.ingest, listen=self.listen, metrics=self.metrics - 4, more=more
        )
        self.file.write_text(text)
        self.config = parse(text, str(self.file))
        self._env = dict(env or {})
        quick_keys(folder / "state/vault", "correct horse battery")
        self._process: subprocess.Popen[bytes] | None = None
        now = dt.datetime.now(dt.UTC)
        renew_due(self.config, now)
        open_store(self.config).renew([person(n, roles) for n, roles in PEOPLE.items()], now)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Ready for agents and people when it returns."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "controller.cli",
                    "--config",
                    str(self.file),
                    "run",
                    "vault",
                ],
                stdout=log,
                stderr=log,
                env=os.environ | self._env,
                cwd=Path(__file__).parent.parent,
                preexec_fn=_end_with_parent,
            )
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"the vault ended: {self.log}")
            try:
                self.agent("n1").key()
                return
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
        raise AssertionError(f"the vault is not ready: {self.log}")

    def kill(self) -> None:
        """As a power cut would, but for what is in the page cache."""
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        self._process.wait(15)
        self._process = None

    def __enter__(self) -> VaultServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def agent(self, node: str, authority: str = "sip") -> Agent:
        return Agent(self, node, authority)

    def person(self, name: str, timeout_s: float = 20.0) -> Gate:
        pki = self.folder / "pki"
        where = TlsGate(
            f"https://127.0.0.1:{self.listen}",
            pki / "people" / f"{name}.pem",
            pki / "people" / f"{name}.key",
            pki / "control" / "ca.pem",
        )
        return Gate(where, timeout_s=timeout_s, name="vault")

    def recorded(self, made: Recording) -> Recording:
        """Brings it whole, and waits until people see that it has ended."""
        [ack] = self.agent(made.node).say(*made.frames())
        assert ack.state is State.ENDED, ack
        self.until_shown(made.id, "complete" if made.outcome.value == "complete" else "partial")
        return made

    def until_shown(self, recording: str, state: str, deadline_s: float = 10.0) -> None:
        from controller.api.recording_shapes import RecordingDetail

        deadline = time.monotonic() + deadline_s
        last = ""
        while time.monotonic() < deadline:
            try:
                shown = self.person("olga").get(RecordingDetail, "recordings", recording)
                last = shown.recording.state
                if last == state:
                    return
            except PbxctlError as error:
                last = error.message
            time.sleep(0.05)
        raise AssertionError(f"{recording} is {last!r}, not {state!r}: {self.log[-2000:]}")

    def scrape(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=5)
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


class Agent:
    """One node's connection to the vault, without an agent's memory."""

    def __init__(self, server: VaultServer, node: str, authority: str = "sip") -> None:
        pki = server.folder / "pki"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(pki / "control" / "ca.pem")
        context.load_cert_chain(pki / authority / f"{node}.pem", pki / authority / f"{node}.key")
        self._context = context
        self._port = server.ingest

    def ask(self, method: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, context=self._context, timeout=20
        )
        try:
            connection.request(method, "/v1/ingest", body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def key(self) -> wire.PublicKey:
        status, body = self.ask("GET")
        assert status == 200, body
        return wire.public_key(body)

    def say(self, *frames: Frame) -> list[Ack]:
        status, body = self.ask("POST", wire.encode(list[Frame](frames)))
        assert status == 200, (status, body)
        return wire.acks(body)

    def sealed(self, plain: bytes, **values: object) -> Recording:
        """A recording to the vault's own key."""
        return Recording(plain, public_key=self.key().public_key, **values)  # type: ignore[arg-type]
