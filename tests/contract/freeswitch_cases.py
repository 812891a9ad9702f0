"""FreeSWITCH in the contract suite: a real one, and one replayed from its recorded wire bytes."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import signal
from typing import ClassVar

import msgspec
import pytest

from controller.pbx.esl_frames import EVENT_MAX_BYTES, FrameReader
from controller.pbx.freeswitch import FreeSwitchDriver
from controller.pbx.hub import GreenHub
from tests.contract.case import CALLER, PHONE, PLACEMENT, Case, secured_call
from tests.contract.freeswitch_node import ESL_PORT, SIP_PORT, FreeSwitchNode, freeswitch_binary
from tests.contract.freeswitch_record import DATA, DIALLED
from tests.esl_server import EslServer, frame, reply
from tests.lab.lab import Lab
from tests.lab.register import Registrar

_numbers = itertools.count(10)
_SOFIA = "                    trunk\tprofile\tsip:mod_sofia@127.0.12.2:5060\tRUNNING (0)\n"


class _FreeSwitchCase(Case):
    can = frozenset(
        {"call", "two_legs", "freeze", "originate", "hangup", "drain", "secure", "wrong_password"}
    )
    host: str
    port: int
    secret: str

    def __init__(self) -> None:
        self.hub = GreenHub()
        self.hub.start()

    def driver(self, *, secret: str | None = None) -> FreeSwitchDriver:
        return FreeSwitchDriver(self.hub, self.host, self.port, secret or self.secret)


class LiveFreeSwitch(_FreeSwitchCase):
    """A real FreeSWITCH on its own loopback address; SIPp is the trunk and the phone."""

    name = "freeswitch-live"
    can = _FreeSwitchCase.can | {"srtp", "register", "record"}
    endpoint: ClassVar[str] = "sofia/trunk/agent@127.0.12.250:5090"
    dead_endpoint: ClassVar[str] = "sofia/nowhere/agent@127.0.12.250:5090"
    context: ClassVar[str] = "from-trunk"
    exten: ClassVar[str] = "park"

    async def start(self) -> None:
        if freeswitch_binary() is None:
            pytest.skip("no FreeSWITCH: set FREESWITCH_BIN or put it on PATH")
        if shutil.which("sipp") is None:
            pytest.skip("no sipp: run make setup")
        self.host, self.port = f"127.0.12.{next(_numbers)}", ESL_PORT
        self.node = FreeSwitchNode(self.host, peer="127.0.12.250:5090")
        self.secret = self.node.secret
        self.node.phone(5090)  # it listens long before FreeSWITCH is up
        await asyncio.to_thread(self.node.start)
        self._ports = itertools.count(5200)

    async def stop(self) -> None:
        if hasattr(self, "lab"):
            await asyncio.to_thread(self.lab.close)
        if hasattr(self, "node"):
            await asyncio.to_thread(self.node.stop)

    def audio_file(self) -> str:
        return str(self.node.dir / "recordings" / "contract.raw")

    async def ring_secured(self, *, then_clear: bool = False) -> None:
        self.lab = await asyncio.to_thread(Lab)
        target = f"{self.host}:{SIP_PORT}"
        await asyncio.to_thread(secured_call, self.lab, target, "park", then_clear)

    async def cut(self) -> None:
        self.node.signal(signal.SIGKILL)

    async def ring(self) -> None:
        self.node.call("wait", caller=CALLER, placement=PLACEMENT, port=next(self._ports))

    async def answer(self) -> None:
        leg = None
        while leg is None:  # the list is some 100 ms late
            listed = await self._api("show channels")
            leg = re.search(r"^[0-9a-f-]{36}(?=,)", listed, re.MULTILINE)
        await self._api(f"uuid_answer {leg[0]}")

    async def end(self) -> None:
        await self._api("hupall NORMAL_CLEARING")

    async def two_legs(self) -> None:
        self.node.call("leg", caller=CALLER, placement=PLACEMENT, port=next(self._ports))

    async def register(self, expires_s: int) -> None:
        def send() -> int:
            if not hasattr(self, "_registrar"):
                self._registrar = Registrar(f"{self.host}:5060", "127.0.12.250")
            return self._registrar.register(PHONE, expires_s=expires_s).code

        assert await asyncio.to_thread(send) == 200

    async def freeze(self) -> None:
        self.node.signal(signal.SIGSTOP)

    async def _api(self, command: str) -> str:
        return await asyncio.to_thread(self.node.api, command)


class Replay:
    """A recorded FreeSWITCH: plays frames, and answers as it would between them."""

    def __init__(self) -> None:
        self.legs: dict[str, dict[str, str]] = {}
        self.paused = False
        self.pending: list[bytes] = []  # the rest of the recording that `play` began
        self.server = EslServer()
        self.server.on_command = self._command

    def begin(self, name: str) -> None:
        data = (DATA / f"{name}.json.esl").read_bytes()
        self.pending = [each.body for each in FrameReader().feed(data)]

    def play(self, until: str = "") -> None:
        """Plays on; stops before the first event named `until`."""
        while self.pending and not (until and f'"{until}"'.encode() in self.pending[0]):
            self.server.push(self._event(self.pending.pop(0)))

    def _event(self, body: bytes) -> bytes:
        event = msgspec.json.decode(body)
        if event["Event-Name"] == "CHANNEL_DESTROY":
            self.legs.pop(event["Unique-ID"], None)
        elif event["Event-Name"].startswith("CHANNEL_"):
            self.legs.setdefault(event["Unique-ID"], {}).update(
                {k: v for k, v in event.items() if isinstance(v, str)}
            )
        return frame("text/event-json", body)

    def _command(self, text: str) -> bytes | None:
        words = text.split()
        if text.startswith("event json"):
            beats = FrameReader().feed((DATA / "call.json.esl").read_bytes())
            beat = next(each.body for each in beats if b'"Session-Count":"0"' in each.body)
            return reply("+OK event listener enabled json") + frame("text/event-json", beat)
        if text.startswith("bgapi originate"):
            return self._originate(text)
        if words[0] != "api":
            return None
        return frame("api/response", self._api(words[1:]).encode())

    def _api(self, words: list[str]) -> str:
        match words:
            case ["show", "channels", "as", "json"]:
                rows = [
                    {
                        "uuid": leg,
                        "direction": event["Call-Direction"],
                        "cid_num": event["Caller-Caller-ID-Number"],
                        "dest": event["Caller-Destination-Number"],
                        "callstate": "ACTIVE" if event["Answer-State"] == "answered" else "RINGING",
                    }
                    for leg, event in self.legs.items()
                ]
                return msgspec.json.encode({"row_count": len(rows), "rows": rows}).decode()
            case ["uuid_exists", leg]:
                return "true" if leg in self.legs else "false"
            case ["uuid_getvar", leg, name] if leg in self.legs:
                event = self.legs[leg]
                special = {"call_uuid": "Channel-Call-UUID", "channel_name": "Channel-Name"}
                return event.get(special.get(name, f"variable_{name}"), "_undef_")
            case ["uuid_kill", leg, _] if leg in self.legs:
                self.legs.clear()
                self.play()
                return "+OK\n"
            case ["fsctl", "pause" | "resume" as verb, "inbound"]:
                self.paused = verb == "pause"
                return "+OK\n"
            case ["fsctl", "pause_check", "inbound"]:
                return "true" if self.paused else "false"
            case ["sofia", "status"]:
                return _SOFIA
            case ["sofia", *_] | ["reloadxml"]:
                return "+OK\n"
        return self.server.answers.get(words[0], "-ERR no such command\n")

    def _originate(self, text: str) -> bytes:
        job = text.rpartition("Job-UUID: ")[2].encode()
        leg = re.search(r"origination_uuid=([^,}]+)", text)
        assert leg is not None
        refused = "/nowhere/" in text
        self.begin("refused" if refused else "dial")
        bodies = []
        for body in self.pending:
            if b'"CHANNEL_DESTROY"' in body and not refused:
                break
            body = body.replace(DIALLED.encode(), leg[1].encode())
            bodies.append(re.sub(rb'"Job-UUID":"[^"]+"', b'"Job-UUID":"%b"' % job, body))
        self.pending = self.pending[len(bodies) :]
        return reply(f"+OK Job-UUID: {job.decode()}") + b"".join(map(self._event, bodies))


def _new(leg: str, caller: str, **more: str) -> bytes:
    event = {"Event-Name": "CHANNEL_CREATE", "Unique-ID": leg, "Channel-Call-UUID": leg}
    event |= {"Caller-Caller-ID-Number": caller, "Answer-State": "ringing", **more}
    return frame("text/event-json", msgspec.json.encode(event))


def _raw(body: bytes) -> bytes:
    return frame("text/event-json", body)


def _plain(body: bytes) -> bytes:
    return frame("text/event-plain", body)


_HEAD = b"Event-Name: CHANNEL_CREATE\nUnique-ID: e-1\nCaller-Caller-ID-Number: "
_DESTROY = '{"Event-Name":"CHANNEL_DESTROY","Unique-ID":"e-1"}'
#: what `inject` sends; each holds one honest new call, whatever comes with it
HOSTILE = {
    "percent escapes": _plain(_HEAD + b"x%0AEvent-Name: CHANNEL_DESTROY%0AUnique-ID: e-1\n\n"),
    "line feeds in JSON": _new("e-1", "x\nEvent-Name: CHANNEL_DESTROY\nUnique-ID: e-1"),
    "a frame in a value": _new("e-1", "x\n\n" + _raw(_DESTROY.encode()).decode()),
    "U+2028": _plain(_HEAD + "x\u2028Event-Name: CHANNEL_DESTROY\u2028\n\n".encode()),
    "not UTF-8": _plain(_HEAD + b"\xff\xfe\xc3\x28\xed\xa0\x80\n\n"),
    "JSON not UTF-8": _raw(
        b'{"Event-Name":"CHANNEL_CREATE","Unique-ID":"e-1","Caller-Caller-ID-Number":"\xff"}'
    ),
    "NUL": _new("e-1", "x\0y"),
    "endless caller": _new("e-1", "9" * 500_000),
    "line without a colon": _plain(b"nonsense\n" + _HEAD + b"x\n\n"),
    "JSON of another shape": b"".join(map(_raw, (b"[]", b"{", b'{"a":1}', b'{"a":{}}', b"")))
    + _raw(b"[" * 100_000)
    + _new("e-1", "x"),
    "unknown content type": frame("text/nonsense", b"a: b\n\n") + _new("e-1", "x"),
    "line feeds between frames": b"\n" * 20_000 + _new("e-1", "x"),
    "an id that is a command": _new("e-1", "x")
    + _raw(b'{"Event-Name":"CHANNEL_ANSWER","Unique-ID":""}'),
    "a claimed placement": _new("e-1", "x", **{"variable_sip_h_X-Pbxctl-Placement": "stolen"}),
    "a placement of no form": _new("e-1", "x", variable_pbxctl_placement="{a}\nb"),
    "a job of nobody": _raw(b'{"Event-Name":"BACKGROUND_JOB","Job-UUID":"x","_body":"+OK"}')
    + _new("e-1", "x"),
    "a heartbeat of nonsense": _raw(b'{"Event-Name":"HEARTBEAT","Max-Sessions":"nan"}')
    + _new("e-1", "x"),
}
FATAL = {
    "endless head": b"Content-Type: " + b"x" * 20_000,
    "huge Content-Length": b"Content-Length: %d\nContent-Type: text/event-json\n\n"
    % (EVENT_MAX_BYTES + 1),
    "negative Content-Length": b"Content-Length: -1\nContent-Type: text/event-json\n\n",
    "two Content-Lengths": b"Content-Length: 1\nContent-Length: 2\nContent-Type: a/b\n\n",
    "replies to nothing": reply("+OK") * 20,
    "disconnect notice": frame("text/disconnect-notice", b"Disconnected, goodbye.\n"),
}


class RecordedFreeSwitch(_FreeSwitchCase):
    """What a real FreeSWITCH 1.11.1 sent, from tests/data/esl."""

    name = "freeswitch-recorded"
    can = _FreeSwitchCase.can | {"inject", "repeat"}
    endpoint = LiveFreeSwitch.endpoint
    dead_endpoint = LiveFreeSwitch.dead_endpoint
    context, exten = LiveFreeSwitch.context, LiveFreeSwitch.exten
    hostile = tuple(HOSTILE)
    fatal = tuple(FATAL)

    async def start(self) -> None:
        self.replay = Replay()
        server = self.replay.server
        self.host, self.port, self.secret = server.host, server.port, server.password

    async def stop(self) -> None:
        self.replay.server.close()

    async def cut(self) -> None:
        self.replay.server.cut()

    async def ring(self) -> None:
        self.replay.begin("call")
        self.replay.play("CHANNEL_ANSWER")

    async def answer(self) -> None:
        self.replay.play("CHANNEL_DESTROY")

    async def end(self) -> None:
        self.replay.play()

    async def two_legs(self) -> None:
        self.replay.begin("legs")
        self.replay.play("CHANNEL_DESTROY")

    async def freeze(self) -> None:
        self.replay.server.frozen = True

    async def inject(self, hostile: str) -> None:
        self.replay.server.push({**HOSTILE, **FATAL}[hostile])

    async def repeat(self) -> None:
        self.replay.begin("call")
        self.replay.play()


CASES: list[type[Case]] = [RecordedFreeSwitch, LiveFreeSwitch]
