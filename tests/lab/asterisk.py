"""An Asterisk node of the lab, in the lab root by chroot."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.lab.asterisk_conf import AsteriskSettings, asterisk_files
from tests.lab.node import Node, NodeFailed, write_secret
from tests.lab.run import Run
from tests.lab.sip import answers_options

AMI_PORT = 5038
SIP_PORT = 5060
Files = Mapping[str, str] | Callable[[AsteriskSettings], Mapping[str, str]]
FOLDERS = ("etc", "lib", "lib/keys", "db", "spool", "cache", "run", "log")


class Asterisk(Node):
    """AMI on address:5038 as user `pbxctl` with `secret`; SIP over UDP on address:5060.

    messages: Asterisk's own log of notices, warnings and errors.
    """

    user = "pbxctl"
    #: of the lab root: whom it turns into at its start, as `user:group`; "" to stay root
    runs_as = ""

    def __init__(
        self,
        run: Run,
        name: str,
        address: str,
        *,
        calls_max: int | None,
        files: Files,
    ) -> None:
        super().__init__(run, name, address)
        #: another question for a node whose signalling is TLS
        self.answers_sip: Callable[[], bool] = partial(answers_options, address, SIP_PORT)
        self.secret = secrets.token_urlsafe(18)
        self.sip = f"{address}:{SIP_PORT}"
        self.messages = self.folder / "log" / "messages.log"
        for folder in FOLDERS:
            (self.folder / folder).mkdir()
        self.settings = AsteriskSettings(
            home=run.inside(self.folder),
            modules_dir=str(run.inside(_modules_dir(run.root))),
            address=address,
            secret=self.secret,
            calls_max=calls_max,
        )
        more = files(self.settings) if callable(files) else files
        for file, text in (asterisk_files(self.settings) | dict(more)).items():
            write_secret(self.folder / "etc" / file, text)

    def command(self) -> list[str]:
        conf = self.settings.home / "etc" / "asterisk.conf"
        user, _, group = self.runs_as.partition(":")
        whom = ["-U", user, "-G", group] if user else []
        return ["chroot", str(self.run.root), "asterisk", "-C", str(conf), "-f", *whom]

    def is_ready(self) -> bool:
        return self._fully_booted() and self.answers_sip()

    def cli(self, command: str) -> str:
        """What Asterisk's console answers to `command`."""
        reply = self.ami(f"Action: Command\r\nCommand: {command}\r\n")
        lines = [line for line in reply.splitlines() if line.startswith("Output: ")]
        return "\n".join(line.removeprefix("Output: ") for line in lines)

    def ami(self, action: str, timeout_s: float = 2.0) -> str:
        """The response to one action, over a connection of its own, outside of pbxctl's driver."""
        with self._login(timeout_s) as link:
            link.sendall(f"{action}ActionID: lab\r\n\r\n".encode())
            return _read_to(link, b"\r\n\r\n", having=b"ActionID: lab\r\n")

    def _login(self, timeout_s: float) -> socket.socket:
        link = socket.create_connection((self.address, AMI_PORT), timeout=timeout_s)
        login = (
            f"Action: Login\r\nUsername: {self.user}\r\nSecret: {self.secret}\r\nEvents: off\r\n"
        )
        try:
            link.sendall(f"{login}ActionID: login\r\n\r\n".encode())
            response = _read_to(link, b"\r\n\r\n", having=b"ActionID: login\r\n")
            if "Response: Success" not in response:
                raise NodeFailed(f"{self.name} refuses its own AMI login: {response}")
        except BaseException:
            link.close()
            raise
        return link

    def _fully_booted(self) -> bool:
        try:
            return "fully booted" in self.cli("core waitfullybooted")
        except OSError:
            return False


def _modules_dir(root: Path) -> Path:
    found = list(root.glob("usr/lib/*/asterisk/modules"))
    if len(found) != 1:
        raise NodeFailed(f"no Asterisk modules in {root}: run make setup")
    return found[0]


def _read_to(link: socket.socket, end: bytes, *, having: bytes) -> str:
    """Reads messages until one that contains `having`, and returns that one."""
    buffer = b""
    while True:
        while end not in buffer:
            data = link.recv(65536)
            if not data:
                raise ConnectionResetError("AMI closed the connection")
            buffer += data
        message, buffer = buffer.split(end, 1)
        if having in message + b"\r\n":
            return message.decode(errors="replace")
