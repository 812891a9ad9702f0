"""Redis, Kamailio and programs of a test's own as nodes of the lab."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.lab.node import Node
from tests.lab.run import Run
from tests.lab.sip import answers_options

REDIS_PORT = 6379
SIP_PORT = 5060


class Redis(Node):
    """redis-server on address:6379 and on `socket`, memory only: a restart loses everything."""

    def __init__(self, run: Run, name: str, address: str, options: Mapping[str, str]) -> None:
        super().__init__(run, name, address)
        self.socket = self.folder / "redis.sock"
        self.url = f"redis://{address}:{REDIS_PORT}/0"
        self.socket_url = f"unix://{self.socket}"
        self._options = {
            "bind": address,
            "port": str(REDIS_PORT),
            "unixsocket": str(self.socket),
            "unixsocketperm": "600",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "protected-mode": "no",  # bound to loopback
            "busy-reply-threshold": "0",  # as pbxctl's own
        } | dict(options)

    def command(self) -> list[str]:
        flags = [part for name, value in self._options.items() for part in (f"--{name}", value)]
        return ["redis-server", *flags]

    def is_ready(self) -> bool:
        try:
            answer = ask_redis(self.address, REDIS_PORT, "PING")
            return answer.startswith(("+PONG", "-NOAUTH"))
        except OSError:
            return False

    def ask(self, command: str) -> str:
        """The raw answer to an inline command, outside of pbxctl's own connections."""
        return ask_redis(self.address, REDIS_PORT, command)


def ask_redis(address: str, port: int, command: str) -> str:
    with socket.create_connection((address, port), timeout=0.5) as link:
        link.sendall(command.encode() + b"\r\n")
        return link.recv(65536).decode()


class Kamailio(Node):
    """Kamailio in the foreground with a config of the caller's.

    The config gets LAB_ADDRESS (its address), LAB_RUN (its run folder) and `defines` by #!define
    (a value is a token of the config: give strings their quotes), and must not name listen
    sockets: UDP address:5060 is given on the command line.
    """

    def __init__(
        self, run: Run, name: str, address: str, config: str, defines: Mapping[str, str]
    ) -> None:
        super().__init__(run, name, address)
        self.sip = f"{address}:{SIP_PORT}"
        self.config = self.folder / "kamailio.cfg"
        self.config.write_text(config)
        self._run_folder = self.folder / "run"
        self._run_folder.mkdir()
        self._defines = {
            "LAB_ADDRESS": f'"{address}"',
            "LAB_RUN": f'"{self._run_folder}"',
        } | dict(defines)

    def command(self) -> list[str]:
        argv = ["kamailio", "-f", str(self.config), "-DD", "-E", "-m", "32", "-M", "8", "-n", "2"]
        argv += ["-Y", str(self._run_folder), "-P", str(self._run_folder / "kamailio.pid")]
        argv += ["-l", f"udp:{self.sip}"]
        for name, value in self._defines.items():
            argv += ["-A", f"{name}={value}"]
        return argv

    def is_ready(self) -> bool:
        return answers_options(self.address, SIP_PORT)


class Program(Node):
    """Any program, for example `pbxctl up`; ready when `ready` says so."""

    def __init__(
        self,
        run: Run,
        name: str,
        address: str,
        argv: Sequence[str | Path],
        ready: Callable[[], bool],
        environment: Mapping[str, str],
    ) -> None:
        super().__init__(run, name, address)
        self._argv = [str(part) for part in argv]
        self._ready = ready
        self.environment = dict(environment)

    def command(self) -> list[str]:
        return self._argv

    def is_ready(self) -> bool:
        return self._ready()
