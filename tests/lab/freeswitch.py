"""A FreeSWITCH node of the lab: the binary of FREESWITCH_BIN, or of PATH."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import socket
from collections.abc import Callable
from functools import partial

from tests.lab.freeswitch_conf import FreeSwitchSettings
from tests.lab.node import Node, NodeFailed, write_secret
from tests.lab.run import LabUnusable, Run
from tests.lab.sip import answers_options
from tests.lab.sipp import speech_file

ESL_PORT = 8021
SIP_PORT = 5060
FreeSwitchConf = Callable[[FreeSwitchSettings], str]
FOLDERS = ("conf", "log", "run", "db", "scripts", "temp", "storage", "cache", "recordings")
OTHER_FOLDERS = ("sounds", "certs", "htdocs", "grammar")  # FreeSWITCH wants to see all of them


def freeswitch_binary() -> str | None:
    """None where there is no FreeSWITCH. A FREESWITCH_BIN that leads nowhere is an error."""
    named = os.environ.get("FREESWITCH_BIN")
    if named and not os.access(named, os.X_OK):
        raise LabUnusable(f"FREESWITCH_BIN={named} is no program: correct or unset it")
    return named or shutil.which("freeswitch")


class FreeSwitch(Node):
    """ESL on address:8021 with `secret`; SIP over UDP on address:5060.

    messages: FreeSWITCH's own log from notice up.
    """

    def __init__(
        self, run: Run, name: str, address: str, *, sessions_max: int, conf: FreeSwitchConf
    ) -> None:
        super().__init__(run, name, address)
        binary = freeswitch_binary()
        if binary is None:
            raise LabUnusable("no FreeSWITCH: put it on PATH or set FREESWITCH_BIN")
        self._binary = binary
        #: another question for a node whose signalling is TLS
        self.answers_sip: Callable[[], bool] = partial(answers_options, address, SIP_PORT)
        self.secret = secrets.token_urlsafe(18)
        self.sip = f"{address}:{SIP_PORT}"
        self.messages = self.folder / "log" / "freeswitch.log"
        for folder in FOLDERS + OTHER_FOLDERS:
            (self.folder / folder).mkdir()
        settings = FreeSwitchSettings(
            name=name,
            address=address,
            secret=self.secret,
            speech=speech_file(run.root),
            sessions_max=sessions_max,
        )
        write_secret(self.folder / "conf" / "freeswitch.xml", conf(settings))

    def command(self) -> list[str]:
        places = [
            part
            for name in FOLDERS + OTHER_FOLDERS
            for part in (f"-{name}", str(self.folder / name))
        ]
        flags = ["-nonat", "-nonatmap", "-np", "-nf", "-nc"]
        # Its log folder gets a copy of the whole config, with the password.
        closed = ["sh", "-c", 'umask 077 && exec "$@"', "sh"]
        # No -base: it would look for the modules below it, too.
        return [*closed, self._binary, *flags, *places]

    def is_ready(self) -> bool:
        try:
            return "UP " in self.esl("api status") and self.answers_sip()
        except OSError:
            return False

    def esl(self, command: str, timeout_s: float = 2.0) -> str:
        """The body of the answer to one command, over a connection of its own."""
        with socket.create_connection((self.address, ESL_PORT), timeout=timeout_s) as link:
            stream = link.makefile("rwb")
            _message(stream)
            stream.write(f"auth {self.secret}\n\n".encode())
            stream.flush()
            headers, _ = _message(stream)
            if "+OK accepted" not in headers:
                raise NodeFailed(f"{self.name} refuses its own ESL login: {headers}")
            stream.write(f"{command}\n\n".encode())
            stream.flush()
            headers, body = _message(stream)
            return body or headers


def _message(stream: io.BufferedRWPair) -> tuple[str, str]:
    """Headers and body of one ESL message."""
    headers = b""
    length = 0
    while (line := stream.readline()) != b"\n":
        if not line:
            raise ConnectionResetError("ESL closed the connection")
        headers += line
        if line.startswith(b"Content-Length: "):
            length = int(line.split()[1])
    return headers.decode(errors="replace"), stream.read(length).decode(errors="replace")
