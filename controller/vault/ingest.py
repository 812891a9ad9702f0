"""Takes what agents bring: frames of sealed recordings, each acknowledged once it is durable.

Needs no key and can read nothing. A frame may come any number of times: what is stored already is
compared and never written again. For every recording the answer names the first chunk that is
missing, which is where an agent goes on after a gap, a crash of either side or a lost answer.

Frames are hostile until they are checked: a node writes recordings of its own name alone.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from controller.errors import StoreUnreachable, UsageError, VaultError
from controller.vault import header as headers
from controller.vault.bodies import Bodies, Growing, Head, Opening, Part
from controller.vault.body import PROLOGUE, SEALED
from controller.vault.header import Header
from controller.vault.intake import Intake, Waiting
from controller.vault.metrics import REFUSED, REPEATED, TAKEN
from controller.vault.store import AlreadyStored
from controller.vault.suites import TAG_BYTES
from controller.vault.wire import Ack, Begin, Chunks, End, Frame, Outcome, State

FRAMES_MAX = 10_000
#: recordings of one node that have not ended, as far as this vault has heard of them
GROWING_MAX = 20_000
#: after that the store is asked again: the keeper may have given a silent recording up
KNOWN_S = 60.0
REASON_CHARS = 200
_THREADS = 8
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """tenants: whose recordings are taken. free_min_bytes: with less room nothing is taken."""

    tenants: frozenset[str]
    recording_max_bytes: int
    free_min_bytes: int


class _Refusal(Exception):
    """kind: one of the few that the metric counts by. The message goes to the node."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Ingest:
    """Blocks; for many threads."""

    def __init__(
        self,
        bodies: Bodies,
        intake: Intake,
        limits: Limits,
        ended: Callable[[str], None] = lambda _: None,
    ) -> None:
        """ended: told of each recording that has ended, in some thread."""
        self._bodies = bodies
        self._intake = intake
        self._limits = limits
        self._ended = ended
        self._growing: defaultdict[str, dict[str, Growing]] = defaultdict(dict)
        #: a recording has one of them; they do not grow with what a node invents
        self._locks = [threading.Lock() for _ in range(256)]
        self._threads = ThreadPoolExecutor(_THREADS, "ingest")

    def close(self) -> None:
        self._threads.shutdown()

    def take(self, node: str, frames: list[Frame]) -> list[Ack]:
        """One ack for each recording that a frame names. node: as its certificate says.

        Raises UsageError for what no agent sends, StoreUnreachable when nothing can be stored.
        """
        by_recording: dict[str, list[Frame]] = {}
        if len(frames) > FRAMES_MAX:
            raise UsageError(f"{len(frames)} frames; {FRAMES_MAX} at most")
        for frame in frames:
            if not _ID.fullmatch(frame.recording):
                raise UsageError(f"{frame.recording[:64]!r} is no recording's id")
            by_recording.setdefault(frame.recording, []).append(frame)
        free = self._bodies.store.free_bytes()
        if free is not None and free < self._limits.free_min_bytes:
            raise StoreUnreachable(
                f"{self._bodies.store.where} has {free >> 20} MiB left",
                hint=f"make room: vault.free_min_mb is {self._limits.free_min_bytes >> 20}",
            )
        work = [
            self._threads.submit(self._take, node, recording, of_it)
            for recording, of_it in by_recording.items()
        ]
        failures = [error for done in work if (error := done.exception())]
        for error in failures:
            if not isinstance(error, StoreUnreachable):
                raise error
            log.error("%s", error.message)
        if failures and len(failures) == len(work):
            raise failures[0]
        # One that failed has no ack: its agent brings the same again.
        return [done.result() for done in work if not done.exception()]

    def _take(self, node: str, recording: str, frames: list[Frame]) -> Ack:
        with self._locks[int(recording[:2], 16)]:
            try:
                return self._one(node, recording, frames)
            except _Refusal as refusal:
                REFUSED.labels(refusal.kind).inc()
                log.warning("node %s, recording %s: %s", node, recording, refusal)
                known = self._growing[node].get(recording)
                reason = str(refusal)[:REASON_CHARS]
                return Ack(recording, known.next if known else 0, State.REFUSED, reason)
            except BaseException:
                self._growing[node].pop(recording, None)  # how far it went is for the store to say
                raise

    def _one(self, node: str, recording: str, frames: list[Frame]) -> Ack:
        begin = next((frame for frame in frames if isinstance(frame, Begin)), None)
        runs = _runs(frame for frame in frames if isinstance(frame, Chunks))
        known = self._known(node, recording)
        if known is None:
            if begin is None:
                return Ack(recording, 0, State.UNKNOWN)
            known = self._begin(node, begin)
        elif begin is not None:
            _same_opening(known, begin)
        if isinstance(known, Head):
            if any(_after(run) > known.end.chunks for run in runs):
                raise _Refusal("late", f"it ended already: {known.end.reason or known.end.outcome}")
            return Ack(recording, known.end.chunks, State.ENDED)
        for first, data in runs:
            self._chunks(recording, known, first, data)
        for frame in frames:
            if isinstance(frame, End):
                self._end(recording, known, frame)
        if known.end is None:
            return Ack(recording, known.next, State.OPEN)
        self._growing[node].pop(recording, None)
        self._ended(recording)
        return Ack(recording, known.end.chunks, State.ENDED)

    def _known(self, node: str, recording: str) -> Growing | Head | None:
        known = self._growing[node].get(recording)
        if known is not None and time.time() - known.heard_s < KNOWN_S:
            return known
        growing = self._bodies.growing(recording)
        # A finished one whose parts are just being dropped may show as growing.
        head = self._bodies.head(recording)
        if head is not None:
            _own(node, headers.decode(head.header))
            self._growing[node].pop(recording, None)
            return head
        if growing is not None:
            _own(node, growing.header)
            growing.heard_s = time.time()
            self._growing[node][recording] = growing
        return growing

    def _begin(self, node: str, frame: Begin) -> Growing:
        try:
            header = headers.decode(frame.header)
            headers.envelope_key_id(frame.envelope)
        except VaultError as error:
            raise _Refusal("header", error.message) from error
        if header.recording != frame.recording:
            raise _Refusal("header", "the header names another recording")
        _own(node, header)
        if header.tenant not in self._limits.tenants:
            raise _Refusal("tenant", f"no recording of tenant {header.tenant!r} is taken here")
        if len(frame.prologue) != PROLOGUE:
            raise _Refusal("header", f"a prologue of {len(frame.prologue)} bytes")
        if len(self._growing[node]) >= GROWING_MAX:
            raise StoreUnreachable(f"{node} has {GROWING_MAX} recordings that have not ended")
        opening = Opening(frame.header, frame.prologue)
        # First the envelope: a recording that has begun without it would never be readable.
        now_ms = round(time.time() * 1000)
        self._intake.put(frame.recording, Waiting(frame.header, frame.envelope, now_ms))
        self._bodies.begin(frame.recording, opening)
        growing = self._bodies.growing(frame.recording)  # as another vault may have left it
        if growing is None:
            raise StoreUnreachable(f"{frame.recording} began and is not there")
        _same_opening(growing, frame)
        growing.heard_s = time.time()
        self._growing[node][frame.recording] = growing
        return growing

    def _chunks(self, recording: str, growing: Growing, first: int, data: bytes) -> None:
        """Stores what is missing of the run, compares what is not. A gap before it is left open."""
        end = first + -(-len(data) // SEALED)
        short = len(data) % SEALED
        if 0 < short < TAG_BYTES or first < 0:
            raise _Refusal("chunks", f"{len(data)} bytes at {first} are no chunks")
        if end * SEALED > self._limits.recording_max_bytes:
            limit = self._limits.recording_max_bytes >> 20
            raise _Refusal("size", f"longer than {limit} MiB, the vault's limit of one recording")
        if first > growing.next:
            return
        last = growing.parts[-1] if growing.parts else Part(0, 0, 0)
        if (short and end < last.after) or (growing.has_last and end > last.after):
            raise _Refusal("chunks", "chunks after the last one")
        if growing.end and end > growing.end.chunks:
            raise _Refusal("chunks", "chunks after its end")
        at = first
        for part in list(growing.parts):
            if part.after <= at or part.first >= end:
                continue
            if part.first > at:  # a part that the store has lost is taken again
                missing = data[(at - first) * SEALED : (part.first - first) * SEALED]
                self._store(recording, growing, at, missing)
            at = max(at, part.first)
            self._compare(recording, part, at, data[(at - first) * SEALED :])
            at = part.after
        if at < end:
            self._store(recording, growing, at, data[(at - first) * SEALED :])

    def _store(self, recording: str, growing: Growing, first: int, data: bytes) -> None:
        try:
            part = self._bodies.put_part(recording, first, data, beside=growing.written)
        except AlreadyStored as error:
            # Another vault on this store was quicker; the agent asks again and we look again.
            raise StoreUnreachable(f"{recording} is being written by another vault") from error
        growing.parts, growing.written = sorted([*growing.parts, part]), True
        growing.heard_s = time.time()
        TAKEN.inc(len(data))

    def _compare(self, recording: str, part: Part, at: int, data: bytes) -> None:
        """`data` from chunk `at` on, as far as the part has the same chunks."""
        stored = self._bodies.part_bytes(recording, part)[(at - part.first) * SEALED :]
        both = min(len(stored), len(data))
        if stored[:both] != data[:both] or (both % SEALED and len(stored) != len(data)):
            wrong = next(
                i
                for i in range(0, len(stored) + 1, SEALED)
                if stored[i : i + SEALED] != data[i : i + SEALED]
            )
            raise _Refusal("different", f"chunk {at + wrong // SEALED} is stored with other bytes")
        REPEATED.inc(both)

    def _end(self, recording: str, growing: Growing, frame: End) -> None:
        if growing.end is not None:
            if (growing.end.chunks, growing.end.outcome) != (frame.chunks, frame.outcome):
                raise _Refusal("end", f"it ended already, {growing.end.outcome}")
            return
        stored = growing.parts[-1].after if growing.parts else 0
        if stored > frame.chunks:
            raise _Refusal("end", f"it ends after {frame.chunks} chunks, and {stored} are stored")
        if growing.next < frame.chunks:
            return  # the ack says from where on
        complete = frame.outcome is Outcome.COMPLETE
        if complete and not growing.has_last:
            raise _Refusal("end", "complete, and its last chunk is missing")
        sealed = growing.sealed_bytes - PROLOGUE
        if frame.plain_bytes != sealed - frame.chunks * TAG_BYTES:
            raise _Refusal("end", f"{frame.plain_bytes} bytes of audio in {sealed} sealed ones")
        if frame.call_ms is not None and not 0 <= frame.call_ms < 1 << 40:
            raise _Refusal("end", f"a call of {frame.call_ms} ms")
        # It goes into the index, which answers a thousand of them at once.
        end = msgspec.structs.replace(frame, reason=frame.reason.replace("\0", "")[:REASON_CHARS])
        if not self._bodies.put_end(recording, end):
            raise StoreUnreachable(f"{recording} is being ended by another vault")
        growing.end = end


def _own(node: str, header: Header) -> None:
    if header.node != node:
        raise _Refusal("foreign", f"{node} may not write a recording of another node")


def _same_opening(known: Growing | Head, begin: Begin) -> None:
    header = known.header if isinstance(known, Head) else known.opening.header
    prologue = begin.prologue if isinstance(known, Head) else known.opening.prologue
    if (header, prologue) != (begin.header, begin.prologue):
        raise _Refusal("different", "it began with another header or prologue")


def _runs(frames: Iterable[Chunks]) -> list[tuple[int, bytes]]:
    """Frames that follow one another as one: each run is one object, and costs its syncs once."""
    runs: list[tuple[int, list[bytes], int]] = []
    for frame in frames:
        if not frame.data:
            continue
        whole, short = divmod(len(frame.data), SEALED)
        if runs and runs[-1][2] == frame.first:
            first, pieces, _ = runs.pop()
            runs.append((first, [*pieces, frame.data], -1 if short else frame.first + whole))
        else:
            runs.append((frame.first, [frame.data], -1 if short else frame.first + whole))
    return [(first, b"".join(pieces)) for first, pieces, _ in runs]


def _after(run: tuple[int, bytes]) -> int:
    return run[0] + -(-len(run[1]) // SEALED)
