"""What the vault and its clients say to each other, as JSON. Times in ms since 1970."""

from __future__ import annotations

import msgspec

from controller.records.recording_rows import Hold, Kept, Read


class RecordingView(msgspec.Struct, frozen=True, kw_only=True):
    """caller, callee: with all but the last digits hidden, where the asker may not see them.

    state: growing, complete, partial, erasing, erased. length_ms: of the audio; call_ms: how long
    the call was up beside it, None where nobody knows. holds: legal holds that stand. lost: the
    last check did not find its body as it was stored.
    """

    recording: str
    state: str
    tenant: str
    node: str
    call: str
    caller: str
    callee: str
    rule: str
    started_ms: int
    length_ms: int
    call_ms: int | None
    reason: str
    keep_until_ms: int
    holds: int
    lost: bool
    suite: str
    rate_hz: int
    channels: int
    sealed_bytes: int


class Recordings(msgspec.Struct, frozen=True):
    """The latest first. next: what to ask `before` with for more, "" at the end."""

    recordings: list[RecordingView]
    next: str


class ErasureView(msgspec.Struct, frozen=True):
    """statement: JSON text. signature: of it, by the vault's Ed25519 key public_key; both hex."""

    at_ms: int
    statement: str
    signature: str
    public_key: str


class RecordingDetail(msgspec.Struct, frozen=True):
    recording: RecordingView
    holds: list[Hold]
    erasure: ErasureView | None


class Verified(msgspec.Struct, frozen=True):
    """bad: chunks that are not what was sealed."""

    recording: str
    intact: bool
    chunks: int
    bad: list[int]
    words: str


class Peaks(msgspec.Struct, frozen=True):
    """The loudest sample of each column, 0 to 32768, for each channel."""

    recording: str
    length_ms: int
    peaks: list[list[int]]


class HoldAsk(msgspec.Struct, frozen=True):
    """lift: ends every hold on it instead."""

    reason: str = ""
    lift: bool = False
    dry_run: bool = False


class EraseAsk(msgspec.Struct, frozen=True):
    reason: str = ""
    dry_run: bool = False


class PersonAsk(msgspec.Struct, frozen=True):
    number: str
    before: str = ""


class RecordingAction(msgspec.Struct, frozen=True):
    """action: hold, lift or erase."""

    recording: str
    action: str
    state: str
    holds: int
    dry_run: bool


class KeptReport(msgspec.Struct, frozen=True):
    kept: list[Kept]
    now_ms: int


class Reads(msgspec.Struct, frozen=True):
    reads: list[Read]


class PeriodKeys(msgspec.Struct, frozen=True):
    """recordings: that a key of this tenant and month opens. keys: 2 while rotating."""

    tenant: str
    period: str
    keys: int
    recordings: int


class VaultStatus(msgspec.Struct, frozen=True, kw_only=True):
    """pairs: X-Wing pairs, the first is sealed to. intake_waiting: recordings without a slot yet.

    bad_envelopes: that no key of ours opens. states: recordings by state. erasure_key: of the
    vault's signature under erasures, hex.
    """

    store: str
    free_bytes: int | None
    provider: str
    pairs: list[str]
    periods: list[PeriodKeys]
    slots: int
    rotating: bool
    intake_waiting: int
    bad_envelopes: int
    states: dict[str, int]
    held: int
    overdue: int
    lost: int
    erasure_key: str


class Rotated(msgspec.Struct, frozen=True):
    """slots: key slots looked at. changed: wrapped anew. pair: the new X-Wing pair, "" for none."""

    slots: int
    changed: int
    pair: str
    dry_run: bool


class VaultWork(msgspec.Struct, frozen=True):
    """What the vault is at: `check` or `rotate`, "" for neither; recordings or key slots done, of
    how many."""

    work: str
    done: int
    of: int


class RotateAsk(msgspec.Struct, frozen=True):
    """pair: have agents seal to a new X-Wing pair as well."""

    pair: bool = True
    dry_run: bool = False
