"""What the index of recordings answers and is asked for: its shapes, without SQL."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class RecordingState(StrEnum):
    """GROWING: its end has not come. PARTIAL: what could be saved. ERASING: doomed, still there."""

    GROWING = "growing"
    COMPLETE = "complete"
    PARTIAL = "partial"
    ERASING = "erasing"
    ERASED = "erased"


ENDED = (RecordingState.COMPLETE, RecordingState.PARTIAL)
READABLE = (RecordingState.GROWING, *ENDED)


class RecordingRow(msgspec.Struct, frozen=True, kw_only=True):
    """As the table has it (tables.py). Times in ms since 1970, 0 for not yet."""

    recording: str
    tenant: str
    node: str
    call: str
    rule: str
    started_ms: int
    rate_hz: int
    channels: int
    suite: str
    header: bytes
    slot: int | None
    period: str
    state: RecordingState = RecordingState.GROWING
    reason: str = ""
    plain_bytes: int = 0
    sealed_bytes: int = 0
    call_ms: int | None = None
    caller: bytes | None = None
    callee: bytes | None = None
    caller_tag: bytes | None = None
    callee_tag: bytes | None = None
    keep_until_ms: int
    holds: int = 0
    arrived_ms: int
    ended_ms: int = 0
    lost_ms: int = 0

    @property
    def length_ms(self) -> int:
        return self.plain_bytes * 1000 // (2 * self.channels * self.rate_hz)


class Hold(msgspec.Struct, frozen=True):
    """lifted_ms: 0 while it stands."""

    reason: str
    who: str
    placed_ms: int
    lifted_ms: int = 0
    lifted_by: str = ""


class Erasure(msgspec.Struct, frozen=True):
    """What was said and signed when a recording was erased; see vault/erasure.py."""

    recording: str
    at_ms: int
    statement: bytes
    signature: bytes


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which recordings; what is unset does not matter. tags: of caller or callee."""

    call: str = ""
    node: str = ""
    tenant: str = ""
    rule: str = ""
    tags: tuple[bytes, ...] = ()
    from_ms: int = 0
    until_ms: int = 0
    states: tuple[RecordingState, ...] = ()
    held: bool = False
    before: tuple[int, str] | None = None


class Counts(msgspec.Struct, frozen=True):
    """states: how many recordings by state. overdue: whose time is over, without those on hold."""

    states: dict[str, int]
    held: int
    overdue: int
    lost: int


class Kept(msgspec.Struct, frozen=True):
    """held: of the recordings, those under a hold. overdue: those that only wait to be erased."""

    tenant: str
    rule: str
    recordings: int
    sealed_bytes: int
    held: int
    overdue: int
    oldest_ms: int
    last_until_ms: int


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """Who read what. recording: "" for what was no single one. detail: without personal data."""

    at_ms: int
    who: str
    roles: str
    address: str
    action: str
    recording: str = ""
    detail: str = ""
