"""Bytes of any kind are frames, acks or refused; nothing else is raised."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.vault import wire

SAID = wire.encode(
    [
        wire.Begin("a" * 32, b"header", b"envelope", b"prologue"),
        wire.Chunks("a" * 32, 0, b"data"),
        wire.End("a" * 32, 1, 5, wire.Outcome.PARTIAL, "a reason", 7),
    ]
)
ANSWERED = wire.encode([wire.Ack("a" * 32, 3, wire.State.OPEN, "why")])


@given(st.integers(0, 300), st.integers(0, 255))
@example(SAID.index(b"a reason"), 0xFF)
def test_an_altered_byte(at: int, value: int) -> None:
    for said, decode in ((SAID, wire.frames), (ANSWERED, wire.acks)):
        altered = bytearray(said)
        altered[at % len(said)] = value
        with contextlib.suppress(msgspec.DecodeError):
            decode(bytes(altered))


def test_text_that_is_not_utf_8_is_refused() -> None:
    for said, text, decode in ((SAID, b"a reason", wire.frames), (ANSWERED, b"why", wire.acks)):
        with pytest.raises(msgspec.DecodeError):
            decode(said.replace(text, b"\xff" * len(text)))
