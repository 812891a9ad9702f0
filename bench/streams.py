"""Streams of PBX events for the readers: recorded calls, repeated with ids of their own."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from controller.pbx.ami_message import parse
from controller.pbx.asterisk_calls import Calls as AsteriskCalls
from controller.pbx.esl_frames import FrameReader, decode_event
from controller.pbx.freeswitch_calls import Calls as FreeSwitchCalls
from tests.contract.ami_wire import read
from tests.esl_server import frame

DATA = Path(__file__).parent.parent / "tests" / "data"
#: what switch_url_encode() leaves alone besides letters and digits (SWITCH_URL_UNSAFE turned round)
_PLAIN_SAFE = "!$'()*,-./_~"
CHANNEL_VARIABLES = 32


@dataclass(frozen=True)
class Stream:
    """events: on the wire. means: NodeEvents that our driver must make of them."""

    data: bytes
    events: int
    means: int

    @property
    def event_bytes(self) -> float:
        return len(self.data) / self.events


def freeswitch(calls: int, *, plain: bool) -> Stream:
    """The recorded call of call.json.esl, its channel events alone; plain: the same events in the
    form that the stock library can read."""
    recorded = (DATA / "esl" / "call.json.esl").read_bytes()
    frames = []
    for each in FrameReader().feed(recorded):
        event = decode_event(each)
        if event is not None and event.get("Event-Name").startswith("CHANNEL_"):
            frames.append(each)
    events = [decode_event(each) for each in frames]
    unique_id = next(e.get("Unique-ID") for e in events if e).encode()
    seen = FreeSwitchCalls()
    means = sum(len(seen.take(e)) for e in events if e)
    if plain:
        one = b"".join(frame("text/event-plain", _plain(each.body)) for each in frames)
    else:
        one = b"".join(frame("text/event-json", each.body) for each in frames)
    parts = one.split(unique_id)
    data = b"".join((b"%08x-0000-4000-8000-%012x" % (n, n)).join(parts) for n in range(calls))
    return Stream(data, calls * len(frames), calls * means)


def _plain(body: bytes) -> bytes:
    """As switch_event_serialize() writes it, percent-encoding each value."""
    lines = [f"{name}: {quote(str(v), safe=_PLAIN_SAFE)}\n" for name, v in json.loads(body).items()]
    return "".join(lines).encode() + b"\n"


def asterisk(calls: int, *, variables: int = 0) -> Stream:
    """The first recorded call of session.txt: Newchannel, VarSet, Newstate, Hangup. variables: so
    many channel variables more on each event, as a long `channelvars` in manager.conf does."""
    _, sections = read(DATA / "ami" / "session.txt")
    events: list[bytes] = []
    for section in sections:
        events += [e for e in section.events if b"\r\nUniqueid: " in e]
        if any(e.startswith(b"Event: Hangup") for e in events):
            break
    uniqueid = parse(events[0]).headers["Uniqueid"]
    events = [e for e in events if f"Uniqueid: {uniqueid}\r\n".encode() in e]
    more = b"".join(
        b"\r\nChanVariable: VARIABLE_%02d=some value %04d" % (n, n) for n in range(variables)
    )
    seen, now_s = AsteriskCalls(), 0.0
    means = sum(len(seen.feed(parse(e), now_s)) for e in events)
    one = b"".join(e + more + b"\r\n\r\n" for e in events)
    parts = re.split(rb"(?<=: )" + re.escape(uniqueid.encode()) + rb"(?=\r\n)", one)
    data = b"".join((b"1795449168.%d" % n).join(parts) for n in range(calls))
    return Stream(data, calls * len(events), calls * means)


class AmiServer:
    """Lets a client log in, answers what a driver asks at its start, and pushes any bytes.

    frozen: it answers no more.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._link: socket.socket | None = None
        self.frozen = False
        threading.Thread(target=self._serve, daemon=True).start()

    def push(self, data: bytes) -> None:
        if self._link is not None:
            with suppress(OSError):
                self._link.sendall(data)

    def close(self) -> None:
        self._listener.close()
        if self._link is not None:
            self._link.close()

    def _serve(self) -> None:
        buffer = b""
        with suppress(OSError):
            self._link, _ = self._listener.accept()
            self._link.sendall(b"Asterisk Call Manager/11.0.0\r\n")
            while data := self._link.recv(65536):
                buffer += data
                *actions, buffer = buffer.split(b"\r\n\r\n")
                for raw in () if self.frozen else actions:
                    self._link.sendall(_answer(parse(raw).headers))


def _answer(action: dict[str, str]) -> bytes:
    name, action_id = action.get("Action", ""), action.get("ActionID", "")
    more = {
        "Challenge": "Challenge: 158949761\r\n",
        "CoreSettings": "AsteriskVersion: 22.10.1\r\nCoreMaxCalls: 0\r\n",
        "CoreShowChannels": "EventList: start\r\n",
    }.get(name, "")
    text = f"Response: Success\r\nActionID: {action_id}\r\n{more}\r\n"
    if name == "Login":
        text += "Event: FullyBooted\r\nUptime: 1\r\n\r\n"
    if name == "CoreShowChannels":
        text += f"Event: CoreShowChannelsComplete\r\nActionID: {action_id}\r\nListItems: 0\r\n\r\n"
    return text.encode()
