"""A SIP phone of a few lines over UDP: what SIPp cannot tell of a call, a test sees here.

It calls (`call`) and is called (`invites`, answered at once), says whose bytes of audio came and
sends digits. RFC 3261 as far as one dialogue without authentication needs it, RFC 3551 PCMU,
RFC 4733 digits. One thread reads both sockets.
"""

from __future__ import annotations

import re
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.lab.until import until

SIP_PORT, RTP_PORT = 5060, 40000
PCMU, G722, EVENT = 0, 9, 101
FRAME_BYTES, FRAME_S = 160, 0.02
RETRANSMIT_S = 0.5
#: G.722 has 16 kHz and says 8 (RFC 3551, 4.5.2)
_RTPMAP = {PCMU: "a=rtpmap:0 PCMU/8000", G722: "a=rtpmap:9 G722/8000"}


@dataclass
class Outgoing:
    """A call of the phone's own. code: of the final response to INVITE, 0 before there is one.

    setup_s: from INVITE to that response. ended: by the far end's BYE.
    """

    phone: Phone
    target: tuple[str, int]
    top: str
    uri: str
    code: int = 0
    response: str = ""
    setup_s: float = 0.0
    ended: bool = False
    cseq: int = 1
    media: tuple[str, int] | None = None
    sequence: int = field(default_factory=lambda: secrets.randbelow(30000))
    clock: int = 0

    def request(self, method: str, body: str = "", kind: str = "") -> None:
        """Sends a request within the dialogue; its response is not waited for."""
        self.cseq += method != "ACK"
        contact = _find(r"^Contact:.*?<([^>]+)>", self.response) or self.uri
        routes = "".join(
            f"Route: {route}\r\n"
            for route in reversed(re.findall(r"^Record-Route: *([^\r]+)", self.response, re.M))
        )
        tagged = _find(r"^(To:[^\r]+)", self.response)
        top = re.sub(r"^To:[^\r]+", lambda _: tagged, self.top, flags=re.M)
        cseq = 1 if method == "ACK" else self.cseq
        kind = f"Content-Type: {kind}\r\n" if kind else ""
        self.phone.send(
            f"{method} {contact} SIP/2.0\r\n{self.phone.via()}{top}{routes}"
            f"CSeq: {cseq} {method}\r\n{kind}Content-Length: {len(body)}\r\n\r\n{body}",
            self.target,
        )

    def hang_up(self) -> None:
        if self.code == 200 and not self.ended:
            self.ended = True
            self.request("BYE")

    def talk(self, frames: int, byte: int) -> None:
        """`frames` packets of 20 ms that hold nothing but `byte`."""
        for number in range(frames):
            self._rtp(PCMU, bytes([byte]) * FRAME_BYTES, marker=number == 0)
            self.clock += FRAME_BYTES
            time.sleep(FRAME_S)

    def say(self, audio: bytes) -> None:
        """In the phone's codec (8,000 bytes a second), in packets of 20 ms, at their time."""
        began = time.monotonic()
        for number, start in enumerate(range(0, len(audio), FRAME_BYTES)):
            packet = audio[start : start + FRAME_BYTES]
            self._rtp(self.phone.codec, packet, marker=number == 0)
            self.clock += FRAME_BYTES
            time.sleep(max(0.0, began + (number + 1) * FRAME_S - time.monotonic()))

    def digit(self, digit: str) -> None:
        """100 ms of an RFC 4733 event, its end told three times."""
        code = "0123456789*#".index(digit)
        for number in range(8):
            end = number >= 5
            duration = min(number + 1, 5) * FRAME_BYTES
            self._rtp(EVENT, struct.pack("!BBH", code, end << 7 | 10, duration), number == 0)
            time.sleep(FRAME_S)
        self.clock += 5 * FRAME_BYTES

    def digit_by_info(self, digit: str) -> None:
        self.request("INFO", f"Signal={digit}\r\nDuration=160\r\n", "application/dtmf-relay")

    def _rtp(self, kind: int, payload: bytes, marker: bool) -> None:
        assert self.media is not None, "no media yet"
        self.sequence = (self.sequence + 1) & 0xFFFF
        head = struct.pack("!BBHII", 0x80, marker << 7 | kind, self.sequence, self.clock, 0x5EED)
        self.phone.rtp.sendto(head + payload, self.media)


class Phone:
    """On address:5060 with audio on address:40000, inside a `with` block.

    answers: its code to whoever calls; deaf: it takes no SIP.
    invites: the INVITE of each call it took, whole. heard: packets of audio by the byte that they
    are full of (-1: mixed).
    """

    def __init__(self, address: str, codec: int = PCMU) -> None:
        self.address = address
        self.codec = codec
        self.sip = f"{address}:{SIP_PORT}"
        self.answers = 200
        self.deaf = False
        self.invites: list[str] = []
        self.heard: dict[int, int] = {}
        self.calls: dict[str, Outgoing] = {}
        self.link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._open = True
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self.link.bind((self.address, SIP_PORT))
        self.rtp.bind((self.address, RTP_PORT))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for call in self.calls.values():
            call.hang_up()
        self._open = False
        self._thread.join()
        self.link.close()
        self.rtp.close()

    def call(
        self,
        target: str,
        number: str,
        *,
        caller: str = '"phone" <sip:100@here>',
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 8.0,
        call_id: str = "",
    ) -> Outgoing:
        """Calls number@target and returns with the final response, or fails without one.

        caller: the From header's value, without a tag; sent as it stands. call_id: another than
        the phone's own choice.
        """
        host, port = target.rsplit(":", 1)
        uri = f"sip:{number}@{target}"
        tag = secrets.token_hex(8)
        call_id = call_id or tag
        top = (
            f"From: {caller};tag={tag}\r\nTo: <{uri}>\r\nCall-ID: {call_id}\r\n"
            f"Contact: <sip:phone@{self.sip}>\r\nMax-Forwards: 70\r\n"
        )
        call = self.calls[call_id] = Outgoing(self, (host, int(port)), top, uri)
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        body = self.sdp()
        invite = (
            f"INVITE {uri} SIP/2.0\r\n{self.via()}{top}{more}CSeq: 1 INVITE\r\n"
            f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
        began_s = sent_s = time.monotonic()
        self.send(invite, call.target)

        def final() -> bool:
            nonlocal sent_s
            if not call.response and time.monotonic() - sent_s > RETRANSMIT_S:
                sent_s = time.monotonic()
                self.send(invite, call.target)
            return call.code >= 200

        until(final, timeout_s, f"a final response, the last one was {call.code}")
        call.setup_s = time.monotonic() - began_s
        return call

    def sdp(self) -> str:
        return (
            f"v=0\r\no=- 1 1 IN IP4 {self.address}\r\ns=-\r\nc=IN IP4 {self.address}\r\nt=0 0\r\n"
            f"m=audio {RTP_PORT} RTP/AVP {self.codec} {EVENT}\r\n{_RTPMAP[self.codec]}\r\n"
            f"a=rtpmap:{EVENT} telephone-event/8000\r\na=ptime:20\r\n"
        )

    def via(self) -> str:
        return f"Via: SIP/2.0/UDP {self.sip};branch=z9hG4bK{secrets.token_hex(8)}\r\n"

    def send(self, text: str, target: tuple[str, int]) -> None:
        self.link.sendto(text.encode(), target)

    def _read(self) -> None:
        while self._open:
            ready, _, _ = select.select([self.link, self.rtp], [], [], 0.05)
            if self.rtp in ready:
                audio = self.rtp.recv(2048)[12:]
                key = audio[0] if len(set(audio)) == 1 else -1
                self.heard[key] = self.heard.get(key, 0) + 1
            if self.link in ready:
                data, source = self.link.recvfrom(65535)
                if self.deaf:
                    continue
                text = data.decode("utf-8", "surrogateescape")
                if text.startswith("SIP/2.0 "):
                    self._take_response(text)
                else:
                    self._take_request(text, source)

    def _take_response(self, text: str) -> None:
        call = self.calls.get(_find(r"^Call-ID: *([^\r]+)", text))
        if call is None or "INVITE" not in _find(r"^CSeq: *([^\r]+)", text):
            return
        call.response = text
        if (code := int(text[8:11])) >= 200:
            if code == 200:
                port = int(_find(r"^m=audio (\d+)", text) or 0)
                call.media = (_find(r"^c=IN IP4 ([\d.]+)", text), port)
            call.request("ACK")
            call.code = code

    def _take_request(self, text: str, source: tuple[str, int]) -> None:
        method = text.split(" ", 1)[0]
        if method == "ACK":
            return
        if method == "INVITE":
            if text not in self.invites:
                self.invites.append(text)
            body = self.sdp() if self.answers == 200 else ""
            self._answer(text, source, body, self.answers)
            return
        if method == "BYE" and (call := self.calls.get(_find(r"^Call-ID: *([^\r]+)", text))):
            call.ended = True
        self._answer(text, source, "")

    def _answer(self, request: str, source: tuple[str, int], body: str, code: int = 200) -> None:
        same = re.findall(r"^(?:Via|From|Call-ID|CSeq|Record-Route):[^\r]*\r\n", request, re.M)
        to = _find(r"^(To:[^\r]*)", request)
        tag = "" if ";tag=" in to else ";tag=phone"
        kind = "Content-Type: application/sdp\r\n" if body else ""
        self.send(
            f"SIP/2.0 {code} -\r\n{''.join(same)}{to}{tag}\r\nContact: <sip:phone@{self.sip}>\r\n"
            f"{kind}Content-Length: {len(body)}\r\n\r\n{body}",
            source,
        )


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.M | re.I)
    return found[1] if found else ""
