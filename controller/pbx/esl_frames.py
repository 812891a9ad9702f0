"""The bytes of FreeSWITCH's event socket, as frames and events; no input or output here.

A frame is a block of `Name: value` lines ended by an empty line, then Content-Length bytes of
body. An event's body is again such a block (text/event-plain, each value percent-encoded) or one
JSON object (text/event-json). Source: mod_event_socket.c, switch_event_serialize().

Order, which is what keeps hostile text harmless: split on LF as bytes arrived, decode each value
after. A caller's `%0A` can so never begin a header, and U+2028 ends no line.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

import msgspec

from controller.errors import ProtocolViolation

# FreeSWITCH's own frame heads have at most eight short lines and a 512-byte Reply-Text.
HEAD_MAX_BYTES = 8 * 1024
# A channel event is 2 to 12 kB; a SIP message, which feeds its variables, is at most 64 KiB.
EVENT_MAX_BYTES = 1024 * 1024
# `show channels as json` takes about 900 B a leg: room for 70,000 legs.
REPLY_MAX_BYTES = 64 * 1024 * 1024

_JSON = msgspec.json.Decoder(dict[str, str | list[str]])


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame. head: as sent, never percent-decoded. body: Content-Length bytes."""

    content_type: str
    head: dict[str, str]
    body: bytes


class EslEvent:
    """One event's headers. A name that is there twice: JSON tells the last, plain the first.

    body: what follows the headers (a job's output), as text; bytes that are not UTF-8 become
    U+FFFD. malformed: lines without ": ", which were skipped.
    """

    __slots__ = ("_values", "body", "malformed")

    def __init__(
        self, values: dict[str, str | list[str]], body: str = "", malformed: int = 0
    ) -> None:
        self._values = values
        self.body = body
        self.malformed = malformed

    def get(self, name: str, default: str = "") -> str:
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, list):  # as switch_event_serialize() writes an array in plain
            return "ARRAY::" + "|:".join(value)
        return value

    @property
    def headers(self) -> dict[str, str]:
        """All headers, for handlers written for the stock library."""
        return {name: self.get(name) for name in self._values}


class _PlainEvent(EslEvent):
    """A text/event-plain event: a header is looked for, and decoded, when it is asked for.

    Of some 150 headers a handful is ever read; this makes it four times as fast as a dictionary.
    """

    __slots__ = ("_end", "_raw")

    def __init__(self, raw: bytes) -> None:
        end = raw.find(b"\n\n")
        self._raw = raw
        self._end = len(raw) if end < 0 else end
        # Exact for what FreeSWITCH sends: it encodes the space in every value.
        lines = raw.count(b"\n", 0, self._end) + 1
        malformed = max(0, lines - raw.count(b": ", 0, self._end))
        super().__init__({}, raw[self._end + 2 :].decode("utf-8", "replace"), malformed)

    def get(self, name: str, default: str = "") -> str:
        key = name.encode() + b": "
        if self._raw.startswith(key):
            at = len(key)
        else:
            at = self._raw.find(b"\n" + key, 0, self._end)
            if at < 0:
                return default
            at += len(key) + 1
        stop = self._raw.find(b"\n", at, self._end)
        return _unquote(self._raw[at : self._end if stop < 0 else stop])

    @property
    def headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in self._raw[: self._end].split(b"\n"):
            name, colon, value = line.partition(b": ")
            if colon:
                found.setdefault(name.decode("utf-8", "replace"), _unquote(value))
        return found


def _unquote(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    return unquote(text) if "%" in text else text


class FrameReader:
    """Cuts a byte stream into frames, however it is chunked. Memory: one frame and one chunk.

    malformed: lines of frame heads without ":", which were skipped.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: dict[str, str] | None = None
        self._body_len = 0
        self.malformed = 0

    @property
    def inside_frame(self) -> bool:
        """True when the stream must not end here."""
        return bool(self._buffer) or self._head is not None

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields the frames that `data` completes; run it to its end.

        Raises ProtocolViolation, after the good frames, when the stream cannot be followed.
        """
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        while True:
            if self._head is None:
                while at < end and buffer[at] == 0x0A:
                    at += 1  # a Reply-Text that ends in LF leaves an empty line behind
                stop = buffer.find(b"\n\n", at, at + HEAD_MAX_BYTES)
                if stop < 0:
                    if end - at >= HEAD_MAX_BYTES:
                        raise ProtocolViolation(f"frame head over {HEAD_MAX_BYTES} bytes")
                    break
                self._head = self._parse_head(bytes(buffer[at:stop]))
                self._body_len = _body_length(self._head)
                at = stop + 2
            if end - at < self._body_len:
                break
            with memoryview(buffer) as view:  # a slice of the bytearray would be copied twice
                body = bytes(view[at : at + self._body_len])
            at += self._body_len
            yield Frame(self._head.get("content-type", ""), self._head, body)
            self._head = None
        del buffer[:at]

    def _parse_head(self, block: bytes) -> dict[str, str]:
        head: dict[str, str] = {}
        for line in block.decode("utf-8", "replace").split("\n"):
            name, colon, value = line.partition(":")
            if not colon:
                self.malformed += 1
                continue
            key = name.strip().lower()
            if key == "content-length" and key in head:
                raise ProtocolViolation("two Content-Length headers")
            head.setdefault(key, value.strip())
        return head


def _body_length(head: dict[str, str]) -> int:
    text = head.get("content-length", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ProtocolViolation(f"Content-Length {text[:20]!r}")
    cap = REPLY_MAX_BYTES if head.get("content-type") == "api/response" else EVENT_MAX_BYTES
    if int(text) > cap:
        raise ProtocolViolation(f"Content-Length {text} over {cap}")
    return int(text)


def decode_event(frame: Frame) -> EslEvent | None:
    """The event of a text/event-plain or text/event-json frame; None: not understood."""
    if frame.content_type == "text/event-json":
        return _decode_json(frame.body)
    if frame.content_type == "text/event-plain":
        return _PlainEvent(frame.body)
    return None


def _decode_json(raw: bytes) -> EslEvent | None:
    try:
        values = _JSON.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # cJSON copies bytes above 0x7F as they are: a caller's Latin-1 name is not UTF-8.
        try:
            values = _JSON.decode(raw.decode("utf-8", "replace"))
        except msgspec.DecodeError:
            return None
    body = values.get("_body", "")
    return EslEvent(values, body if isinstance(body, str) else "")
