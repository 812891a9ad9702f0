"""AMI on the wire: bytes to messages. Pure.

Bytes are cut into messages first and decoded after, value by value, so nothing that a value holds
can move a boundary. Only CR LF ends a line: U+2028, a lone CR or LF, NUL are data. A message has
at most MESSAGE_MAX bytes; more, or another greeting than Asterisk's, is a ProtocolViolation.

Asterisk writes one CR LF after its greeting and two after every message (main/manager.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from panoramisk.message import Message

from controller.errors import ProtocolViolation

MESSAGE_MAX = 64 * 1024
GREETING_MAX = 128
GREETING = b"Asterisk Call Manager/"
CRLF = b"\r\n"


class Received(Message):  # type: ignore[misc]
    """One message. `headers` keeps the first value of a repeated header, `repeated` the others.

    It is a panoramisk Message too, whose case-insensitive table is made when it is first used.
    """

    def __init__(self, headers: dict[str, str], repeated: list[tuple[str, str]]) -> None:
        self.headers = headers
        self.repeated = repeated
        self.content = ""
        self.manager: object = None

    @cached_property
    def _store(self) -> dict[str, tuple[str, str]]:
        return {name.lower(): (name, value) for name, value in self.headers.items()}

    @property
    def kind(self) -> str:
        """ "Event", "Response", or something that is neither.

        An OriginateResponse event carries a Response header too: the first header decides.
        """
        return next(iter(self.headers), "")

    def every(self, name: str) -> list[str]:
        first = [self.headers[name]] if name in self.headers else []
        return first + [value for other, value in self.repeated if other == name]


def parse(raw: bytes) -> Received:
    """One message without its closing blank line. Never fails: a line without ": " is a name."""
    if raw.isascii():
        lines = raw.decode("ascii").split("\r\n")
    else:
        lines = [line.decode("utf-8", "replace") for line in raw.split(CRLF)]
    pairs = [line.partition(": ") for line in lines]
    headers = {name: value for name, _, value in pairs}
    if len(headers) == len(pairs):
        return Received(headers, [])
    headers, repeated = {}, []
    for name, _, value in pairs:
        if name in headers:
            repeated.append((name, value))
        else:
            headers[name] = value
    return Received(headers, repeated)


class Framer:
    """Cuts a byte stream into messages; any split of the stream gives the same messages."""

    def __init__(self) -> None:
        self.greeting = ""
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields the messages that `data` completes, then raises ProtocolViolation if due."""
        data = self._rest + data
        if not self.greeting:
            line, end, after = data.partition(CRLF)
            if len(line) > GREETING_MAX or line[: len(GREETING)] != GREETING[: len(line)]:
                raise ProtocolViolation("this is not an Asterisk manager port")
            if not end:
                self._rest = data
                return
            if len(line) < len(GREETING):
                raise ProtocolViolation("this is not an Asterisk manager port")
            self.greeting, data = line.decode("utf-8", "replace"), after
        *messages, self._rest = data.split(CRLF + CRLF)
        for raw in messages:
            if len(raw) > MESSAGE_MAX:
                raise ProtocolViolation(f"a message of {len(raw)} bytes, at most {MESSAGE_MAX}")
            if raw:
                yield raw
        # The rest may hold up to three bytes of the blank line that would end the message.
        if len(self._rest) > MESSAGE_MAX + 3:
            raise ProtocolViolation(f"a message that does not end within {MESSAGE_MAX} bytes")
