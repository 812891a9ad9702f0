"""Asterisk in the contract suite: a real one, and one replayed from its recorded wire bytes."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest

from controller.pbx.asterisk import AsteriskDriver
from tests.contract.asterisk_node import AMI_PORT, ROOT, SIP_PORT, USER, AsteriskNode
from tests.contract.case import Case

SCENARIO = Path(__file__).with_name("uac.xml")
_numbers = itertools.count(1)


class LiveAsterisk(Case):
    """A real Asterisk on its own loopback address; SIPp is the trunk."""

    name = "asterisk-live"
    can = frozenset(
        {"call", "two_legs", "freeze", "originate", "hangup", "drain", "secure", "wrong_password"}
    )
    endpoint: ClassVar[str] = "Local/echo@services"
    dead_endpoint: ClassVar[str] = "PJSIP/nobody"
    context: ClassVar[str] = "services"
    exten: ClassVar[str] = "echo"

    def __init__(self) -> None:
        number = next(_numbers)
        self.address = f"127.0.11.{number}"
        self.trunk = f"127.0.11.{100 + number}"
        self.node: AsteriskNode | None = None
        self._callers: list[subprocess.Popen[bytes]] = []
        #: the AMI port that drivers connect to; a recorder sits on another
        self.host, self.port = self.address, AMI_PORT

    async def start(self) -> None:
        if not (ROOT / "usr/sbin/asterisk").exists():
            pytest.skip(f"no Asterisk root at {ROOT}: run make setup")
        if shutil.which("sipp") is None:
            pytest.skip("no sipp: run make setup")
        self.node = AsteriskNode(self.address)
        await asyncio.to_thread(self.node.start)

    async def stop(self) -> None:
        for caller in self._callers:
            caller.kill()
            caller.wait(5)
        self._callers.clear()
        if self.node is not None:
            await asyncio.to_thread(self.node.stop)

    def driver(self, *, secret: str | None = None) -> AsteriskDriver:
        assert self.node is not None
        return AsteriskDriver(self.host, self.port, USER, secret or self.node.secret, cpus=2)

    async def cut(self) -> None:
        assert self.node is not None
        self.node.kill()

    async def ring(self) -> None:
        await self._cli("dialplan set global ANSWER 0")
        self.dial("wait")

    async def answer(self) -> None:
        await self._cli("dialplan set global ANSWER 1")

    async def end(self) -> None:
        await self._cli("channel request hangup all")

    async def two_legs(self) -> None:
        self.dial("leg")

    async def freeze(self) -> None:
        assert self.node is not None
        self.node.freeze()

    def dial(self, service: str) -> None:
        port = 5200 + len(self._callers)
        command = ["sipp", f"{self.address}:{SIP_PORT}", "-sf", str(SCENARIO), "-s", service]
        command += ["-m", "1", "-i", self.trunk, "-p", str(port), "-nostdin"]
        command += ["-mp", str(30000 + 10 * len(self._callers))]
        self._callers.append(
            subprocess.Popen(
                command, cwd="/tmp", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    async def _cli(self, command: str) -> None:
        assert self.node is not None
        await asyncio.to_thread(self.node.cli, command)
