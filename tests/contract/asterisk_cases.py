"""Asterisk in the contract suite: a real one, and one replayed from its recorded wire bytes."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import ClassVar

import jinja2
import pytest

from controller.pbx.asterisk import AsteriskDriver
from tests.contract.ami_wire import DATA, Replay
from tests.contract.case import CALLER, PHONE, PLACEMENT, Case, secured_call
from tests.lab.asterisk import AMI_PORT
from tests.lab.asterisk_conf import MODULES
from tests.lab.lab import Lab
from tests.lab.register import Registrar
from tests.lab.run import LabUnusable
from tests.lab.secure_conf import pjsip_conf

USER = "driver"
STANZA = Path(__file__).parents[2] / "dialplans" / "asterisk" / "pbxctl-manager.conf.j2"
# Numbers to call. `wait` rings until the global ANSWER is 1; `leg` has a second leg behind a
# Local channel; the pairs that `record_ami` uses meet in one bridge.
EXTENSIONS = """[general]
static = yes
[globals]
ANSWER = 0
[trunk]
exten => _[a-z]!,1,Set(PBXCTL_PLACEMENT=${PJSIP_HEADER(read,X-Pbxctl-Placement)})
 same => n,Goto(services,${EXTEN},1)
[services]
exten => wait,1,Ringing()
 same => n,While($["${GLOBAL(ANSWER)}" != "1"])
 same => n,Wait(0.1)
 same => n,EndWhile()
 same => n,Answer()
 same => n,Wait(60)
exten => echo,1,Answer()
 same => n,Echo()
exten => leg,1,Dial(Local/echo@services/n,30)
exten => local,1,Dial(Local/echo@services,30)
exten => young,1,Answer()
 same => n,Set(GLOBAL(YOUNG)=${CHANNEL})
 same => n,Wait(60)
exten => old,1,Answer()
 same => n,Set(GLOBAL(OLD)=${CHANNEL})
 same => n,Wait(60)
exten => pull-old,1,Answer()
 same => n,Bridge(${GLOBAL(OLD)})
exten => pull-young,1,Answer()
 same => n,While($["${GLOBAL(YOUNG)}" = ""])
 same => n,Wait(0.1)
 same => n,EndWhile()
 same => n,Bridge(${GLOBAL(YOUNG)})
exten => conf,1,Answer()
 same => n,ConfBridge(one)
"""
# A phone without a password; the lab's trunk takes whoever is not known by name.
PHONES = f"""
[global](+)
endpoint_identifier_order = username,ip
[tcp]
type = transport
protocol = tcp
bind = {{address}}:5060
[{PHONE}]
type = endpoint
context = services
aors = {PHONE}
[{PHONE}]
type = aor
max_contacts = 1
remove_existing = yes
minimum_expiration = 10
"""
MORE_MODULES = ("app_confbridge", "bridge_softmix")


class LiveAsterisk(Case):
    """A real Asterisk of the lab, with the manager.conf stanza that `render` writes."""

    name = "asterisk-live"
    can = frozenset(
        {"call", "two_legs", "freeze", "originate", "hangup", "drain", "secure", "srtp",
          "wrong_password", "register", "record"}
    )  # fmt: skip
    endpoint: ClassVar[str] = "Local/echo@services"
    dead_endpoint: ClassVar[str] = "PJSIP/nobody"
    context: ClassVar[str] = "services"
    exten: ClassVar[str] = "echo"

    def __init__(self) -> None:
        self.lab: Lab | None = None
        self._secret = secrets.token_urlsafe(18)

    async def start(self) -> None:
        try:
            self.lab = await asyncio.to_thread(Lab)
        except LabUnusable as error:
            pytest.skip(str(error))
        modules = "".join(f"load = {name}.so\n" for name in (*MODULES, *MORE_MODULES))
        files = {
            "extensions.conf": EXTENSIONS,
            "modules.conf": f"[modules]\nautoload = no\n{modules}",
            "confbridge.conf": "",
        }
        self.node = await asyncio.to_thread(self.lab.asterisk, "node", calls_max=200, files=files)
        self.host, self.port = self.node.address, AMI_PORT
        stanza = jinja2.Template(STANZA.read_text()).render(
            name="node", user=USER, password=self._secret, control_from=["127.0.0.0/8"]
        )
        with (self.node.folder / "etc" / "manager.conf").open("a") as conf:
            conf.write(stanza)
        # SRTP is taken, and clear RTP too
        conf_text = pjsip_conf(self.node.address, optimistic=True)
        phones = PHONES.format(address=self.node.address)
        (self.node.folder / "etc" / "pjsip.conf").write_text(conf_text + phones)
        await asyncio.to_thread(self.node.restart)
        self._registrar: Registrar | None = None

    def audio_file(self) -> str:
        return f"{self.node.settings.home}/spool/contract.raw"

    async def register(self, expires_s: int) -> None:
        def send() -> int:
            assert self.lab is not None
            self._registrar = self._registrar or Registrar(self.node.sip, self.lab.address())
            return self._registrar.register(PHONE, expires_s=expires_s).code

        assert await asyncio.to_thread(send) == 200

    async def stop(self) -> None:
        lab, self.lab = self.lab, None
        if lab is not None:
            await asyncio.to_thread(lab.close)

    def driver(self, *, secret: str | None = None) -> AsteriskDriver:
        return AsteriskDriver(self.host, self.port, USER, secret or self._secret, cpus=2)

    async def cut(self) -> None:
        await asyncio.to_thread(self.node.kill)

    async def ring(self) -> None:
        await self._cli("dialplan set global ANSWER 0")
        await self.dial("wait")

    async def answer(self) -> None:
        await self._cli("dialplan set global ANSWER 1")

    async def end(self) -> None:
        await self._cli("channel request hangup all")

    async def ring_secured(self, *, then_clear: bool = False) -> None:
        assert self.lab is not None
        await asyncio.to_thread(secured_call, self.lab, self.node.sip, "echo", then_clear)

    async def two_legs(self) -> None:
        await self.dial("leg")

    async def freeze(self) -> None:
        await asyncio.to_thread(self.node.freeze)

    async def dial(self, service: str) -> None:
        """One call from outside to a number of EXTENSIONS, held until the node ends it."""
        assert self.lab is not None
        await asyncio.to_thread(
            self.lab.calls,
            self.node,
            service,
            hold_s=60.0,
            audio=False,
            headers={"X-Pbxctl-Placement": PLACEMENT},
            caller=CALLER,
            answer_timeout_s=60.0,
        )

    async def _cli(self, command: str) -> None:
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
    can = (LiveAsterisk.can - {"srtp", "register", "record"}) | {"inject", "repeat"}
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
