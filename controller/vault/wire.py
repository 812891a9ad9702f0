"""What an agent and a vault say to each other: frames of many recordings in one request.

POST /v1/ingest carries a msgpack list of frames; the answer is a msgpack list of acks, one for
each recording that was named, in any order. Everything may be said twice: a lost answer is
answered the same again. An agent may forget a chunk once an ack's `next` is beyond it, and never
before: the vault has then synced it to its store and read it back.

GET /v1/ingest answers one PublicKey, to which new envelopes are sealed. In both a node shows its
own certificate of the authority `sip`, and the vault its own, `vault` of the authority `control`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

import msgspec

#: bytes of one request at most; a vault refuses more with 413
REQUEST_MAX_BYTES = 16 << 20


class Outcome(StrEnum):
    """COMPLETE: sealed to its last byte. PARTIAL: what could be salvaged after a crash."""

    COMPLETE = "complete"
    PARTIAL = "partial"


class PublicKey(msgspec.Struct, frozen=True):
    """key_id: as envelope_key_id of header.py has it."""

    key_id: str
    public_key: bytes


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """The first of a recording. header, envelope, prologue: as docs/vault-format.md says."""

    recording: str
    header: bytes
    envelope: bytes
    prologue: bytes


class Chunks(msgspec.Struct, frozen=True, tag="chunks"):
    """Sealed chunks `first`, `first + 1`, … end to end; all whole, but for the stream's last."""

    recording: str
    first: int
    data: bytes


class End(msgspec.Struct, frozen=True, tag="end"):
    """No more comes. chunks: how many there are; plain_bytes: of audio in them.

    call_ms: how long the call was up beside the recording, None where nobody knows.
    """

    recording: str
    chunks: int
    plain_bytes: int
    outcome: Outcome
    reason: str = ""
    call_ms: int | None = None


Frame = Begin | Chunks | End


class State(StrEnum):
    """UNKNOWN: say Begin first. REFUSED: never to be sent again; `reason` tells why."""

    OPEN = "open"
    ENDED = "ended"
    UNKNOWN = "unknown"
    REFUSED = "refused"


class Ack(msgspec.Struct, frozen=True):
    """next: the first chunk that the vault does not hold yet."""

    recording: str
    next: int
    state: State
    reason: str = ""


T = TypeVar("T")

_FRAMES = msgspec.msgpack.Decoder(list[Frame])
_ACKS = msgspec.msgpack.Decoder(list[Ack])
_PUBLIC_KEY = msgspec.msgpack.Decoder(PublicKey)
encode = msgspec.msgpack.Encoder().encode


def frames(body: bytes) -> list[Frame]:
    """Raises msgspec.DecodeError for anything but a list of frames."""
    return _decoded(_FRAMES, body)


def acks(body: bytes) -> list[Ack]:
    """Raises msgspec.DecodeError for anything but a list of acks."""
    return _decoded(_ACKS, body)


def public_key(body: bytes) -> PublicKey:
    """Raises msgspec.DecodeError for anything else."""
    return _decoded(_PUBLIC_KEY, body)


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except UnicodeDecodeError as error:  # msgspec lets it through for text that is not UTF-8
        raise msgspec.DecodeError(str(error)) from None
