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
from tests.contract.ami_wire import DATA, Replay
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


ROW = "Event: CoreShowChannel\r\n"
CHANNEL = "Channel: PJSIP/evil-1\r\nChannelState: 4\r\nUniqueid: {0}\r\nLinkedid: {0}\r\n"


def _new(uniqueid: str, caller: bytes) -> bytes:
    head = b"Event: Newchannel\r\n" + CHANNEL.format(uniqueid).encode()
    return head + b"CallerIDNum: " + caller + b"\r\n\r\n"


#: what `inject` sends; each that holds a Newchannel starts a call, whatever it carries
HOSTILE = {
    "percent escapes": _new("e.1", b"x%0D%0AEvent: Hangup%0D%0AUniqueid: e.1"),
    "lone CR and LF": _new("e.1", b"x\nEvent: Hangup\rUniqueid: e.1\r\r\n\n"),
    "U+2028": _new("e.1", "x\u2028Event: Hangup\u2028\u0085Uniqueid: e.1".encode()),
    "not UTF-8": _new("e.1", b"\xff\xfe\xc3\x28\xed\xa0\x80\xe2\x82"),
    "NUL": _new("e.1", b"x\0y"),
    "endless caller": _new("e.1", b"9" * 60_000),
    "repeated Event header": _new("e.1", b"x\r\nEvent: Hangup\r\nUniqueid: e.2"),
    "line without a colon": _new("e.1", b"x\r\nnonsense\r\n:\r\n: \r\n"),
    "neither event nor response": b"Nonsense: 1\r\n\r\n\r\n\r\n\r\n\r\n" + _new("e.1", b"x"),
    "forged ActionID": b"Event: OriginateResponse\r\nActionID: 1\r\nResponse: Success\r\n\r\n"
    + b"Response: Success\r\nActionID: ffffffffffff\r\n\r\n"
    + _new("e.1", b"x\r\nActionID: 1"),
    "row of no list": ROW.encode() + CHANNEL.format("e.9").encode() + b"\r\n" + _new("e.1", b"x"),
    "ids that are patterns": _new("/.*/", b"x") + _new("", b"x") + _new("e.1", b"x"),
    "cause that is no number": _new("e.1", b"x")
    + b"Event: Hangup\r\n"
    + CHANNEL.format("e.1").encode()
    + b"Cause: \xd9\xa1\xd9\xa2x\r\n\r\n"
    + b"Event: Hangup\r\n"
    + CHANNEL.format("e.1").encode()
    + b"Cause: 99999999999\r\n\r\n",
}
FATAL = {
    "endless line": b"Event: Newchannel\r\nUniqueid: " + b"9" * 300_000,
    "endless headers": b"Event: Newchannel\r\n" + b"A: b\r\n" * 50_000,
}


class RecordedAsterisk(Case):
    """What a real Asterisk 22.10 sent, from tests/data/ami/session.txt."""

    name = "asterisk-recorded"
    can = LiveAsterisk.can | {"inject", "repeat"}
    endpoint = LiveAsterisk.endpoint
    dead_endpoint = LiveAsterisk.dead_endpoint
    context, exten = LiveAsterisk.context, LiveAsterisk.exten
    hostile = tuple(HOSTILE)
    fatal = tuple(FATAL)

    async def start(self) -> None:
        self.replay = Replay(DATA / "session.txt")
        self.port = await self.replay.start("127.0.0.1")

    async def stop(self) -> None:
        await self.replay.stop()

    def driver(self, *, secret: str | None = None) -> AsteriskDriver:
        self.replay.refuse_login = secret is not None
        return AsteriskDriver("127.0.0.1", self.port, USER, secret or "any", cpus=2)

    async def cut(self) -> None:
        self.replay.drop()

    async def ring(self) -> None:
        self.replay.play("ring")

    async def answer(self) -> None:
        self.replay.play("answer")

    async def end(self) -> None:
        self.replay.play("end")

    async def two_legs(self) -> None:
        self.replay.play("two_legs")

    async def freeze(self) -> None:
        self.replay.frozen = True

    async def inject(self, hostile: str) -> None:
        self.replay.send({**HOSTILE, **FATAL}[hostile])

    async def repeat(self) -> None:
        for section in ("ring", "answer", "end"):
            self.replay.play(section)


CASES: list[type[Case]] = [RecordedAsterisk, LiveAsterisk]
