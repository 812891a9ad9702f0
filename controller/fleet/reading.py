"""What the library in Redis answers, packed, as types; it may be of another version, or of a node
that was seized."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from controller.errors import FleetUnreachable
from controller.fleet.state import Alarm, CallRecord, NodeView

T = TypeVar("T")

NODES = msgspec.msgpack.Decoder(list[NodeView])
CALL = msgspec.msgpack.Decoder(CallRecord)
ALARM = msgspec.msgpack.Decoder(Alarm)


def read(decoder: msgspec.msgpack.Decoder[T], raw: bytes) -> T:
    """Raises FleetUnreachable, which no role ends by."""
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise FleetUnreachable(
            f"what Redis holds cannot be read: {error}",
            hint="all roles of a fleet run one version: pbxctl doctor",
        ) from error


def read_each(decoder: msgspec.msgpack.Decoder[T], listed: Iterable[bytes]) -> list[T]:
    """Without what cannot be read: it must not hide the rest."""
    found = []
    for raw in listed:
        with contextlib.suppress(FleetUnreachable):
            found.append(read(decoder, raw))
    return found
