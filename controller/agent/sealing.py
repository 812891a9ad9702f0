"""Seals recordings as they grow: one pass over all files, for one thread.

A chunk is sealed once it is full. A chunk may be sealed again after a failure, from the same bytes,
which stay in the tmpfs until the chunk is safe elsewhere; so the file must only ever grow. Of one
that shrank nothing more is sealed: other bytes under the same nonce would give both away.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable
from typing import cast

import msgspec

from controller.agent.audio import FRAME_BYTES
from controller.agent.tmpfs import Ended, Files, Memo
from controller.vault import header as headers
from controller.vault.body import CHUNK, SEALED, Sealer
from controller.vault.wire import Chunks, End, Frame, Outcome

#: of one recording in one pass; 8 s of stereo at 8 kHz
READ_CHUNKS = 16
#: audio that is safe is freed in pieces of this: few system calls, 1 MiB a recording
FORGET_CHUNKS = 64
#: a file is looked at so long before its next chunk can be full, should the PBX's clock be faster
EARLY_S = 0.1
#: a file that did not grow for so long is asked about its writer
QUIET_S = 1.0
#: for the PBX's note after it closed the file
NOTE_S = 2.0
#: for the PBX to open the file at all: Asterisk does so with the first audio, after all the ringing
UNOPENED_S = 600.0


class Recording:
    """One recording of this node. Counts are chunks.

    next: the first one that was not handed out yet. acked: the vault holds all before it; spooled:
    our disk does. begun: the vault knows of it. forgotten: all before it is no longer here.
    due_s: before that, by the monotonic clock, a look would find no full chunk: audio comes no
    faster than it is spoken.
    """

    def __init__(self, files: Files, memo: Memo, mark: int = 0) -> None:
        header = headers.decode(memo.begin.header)
        self.id = files.recording
        self.files = files
        self.memo = memo
        self.sealer = Sealer(header.suite, memo.data_key, memo.begin.header, memo.salt)
        self.next = self.acked = self.spooled = self.forgotten = mark
        self.begun = False
        #: its file shrank: what the vault has of it is all there will be
        self.cut = False
        #: its last chunk and its end were handed out
        self.finished = False
        self.stopping = ""
        self.due_s = 0.0
        self._bytes_per_s = header.rate_hz * FRAME_BYTES
        self._bytes = mark * CHUNK
        self._grew_s = time.monotonic()
        self._opened = mark > 0

    @property
    def safe(self) -> int:
        return self.acked if self.acked > self.spooled else self.spooled  # max() is slower

    def roll_back(self) -> None:
        """What was handed out is not safe: it is handed out again."""
        if self.next != self.safe or self.finished:
            self.next, self.finished, self.due_s = self.safe, False, 0.0

    def forget(self, *, all_of_it: bool = False) -> None:
        """Frees audio that is safe. Raises OSError."""
        safe = self.safe
        if safe - self.forgotten >= (1 if all_of_it else FORGET_CHUNKS):
            self.files.forget(safe, CHUNK, self.forgotten)
            self.forgotten = safe

    def look(self, now_s: float) -> int:
        """Bytes of audio now; looks for the recording's end where it does not grow."""
        ended = self.memo.ended
        if ended is not None:
            return ended.plain_bytes
        size = self.files.audio.size()
        if size > self._bytes:
            self._bytes, self._grew_s, self._opened = size, now_s, True
            handed_out = min(size // CHUNK, self.next + READ_CHUNKS)
            missing = (handed_out + 1) * CHUNK - size
            self.due_s = now_s + missing / self._bytes_per_s - EARLY_S
            return size
        if size < self._bytes:
            self.cut = True
        elif now_s - self._grew_s > QUIET_S:
            try:
                self._look_for_end(now_s)
            except OSError as error:
                # No room in the tmpfs to note the end: what it has goes out, which makes some.
                if error.errno != errno.ENOSPC:
                    raise
        return self._bytes

    def _look_for_end(self, now_s: float) -> None:
        quiet_s = now_s - self._grew_s
        audio = self.files.audio
        if audio.has_writer():
            self._opened = True
            return
        if audio.size() != self._bytes:
            return  # it grew and was closed just now
        size = audio.size_at_end()
        if self.stopping:
            self._end(size, Outcome.PARTIAL, self.stopping)
        elif self.files.ended_in_order():
            self._end(size, Outcome.COMPLETE, "")
        elif self._opened and quiet_s > NOTE_S:
            self._end(size, Outcome.PARTIAL, "the PBX closed it without a word: it crashed")
        elif quiet_s > UNOPENED_S:
            self._end(size, Outcome.PARTIAL, "the PBX never opened it")

    def _end(self, plain_bytes: int, outcome: Outcome, reason: str) -> None:
        ended_ms = int(self.files.audio.last_written_s() * 1000)
        call_ms = max(0, ended_ms - self.memo.started_us // 1000)
        ended = Ended(plain_bytes, outcome, reason, call_ms)
        memo = msgspec.structs.replace(self.memo, ended=ended)
        self.files.write(memo, self.forgotten)  # before the last chunk is sealed, or never
        self.memo = memo
        self._bytes, self.due_s = plain_bytes, 0.0

    def remember_leg(self, leg: str) -> None:
        self.memo = msgspec.structs.replace(self.memo, leg=leg)
        self.files.write(self.memo, self.forgotten)

    @property
    def empty(self) -> bool:
        """It ended and never had any audio: nobody need hear of it."""
        return self.memo.ended is not None and not self.memo.ended.plain_bytes and not self.begun


class Gatherer:
    """Makes frames of what is new, of about `limit_bytes` of audio at a time.

    Its buffers are reused, and the frames of a pass lie in them: they are encoded before the next.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._plain = memoryview(bytearray(READ_CHUNKS * CHUNK))
        self._sealed = memoryview(bytearray(limit_bytes + (READ_CHUNKS + 1) * SEALED))

    def gather(
        self, recordings: Iterable[Recording], *, begin_all: bool
    ) -> tuple[list[Frame], bool]:
        """Frames in the order of each recording; whether there is more than the limit took.

        begin_all: each recording's frames are to make sense without any before them. What is
        handed out counts as such: `roll_back` takes it back.
        """
        frames: list[Frame] = []
        taken = 0
        now_s = time.monotonic()
        for recording in recordings:
            if taken >= self._limit_bytes:
                return frames, True
            if now_s < recording.due_s or recording.finished or recording.cut:
                continue
            size = recording.look(now_s)
            if recording.cut:
                continue
            whole = size // CHUNK - recording.next
            if whole <= 0 and recording.memo.ended is None:
                continue
            if recording.empty:
                continue
            taken = self._one(recording, whole, size, frames, begin_all, taken)
        return frames, False

    def _one(
        self,
        recording: Recording,
        whole: int,
        size: int,
        frames: list[Frame],
        begin_all: bool,
        taken: int,
    ) -> int:
        if begin_all or not recording.begun:
            frames.append(recording.memo.begin)
        if whole > 0:
            plain = self._plain[: min(whole, READ_CHUNKS) * CHUNK]
            got = recording.files.audio.read_into(plain, recording.next * CHUNK)
            out = self._sealed[taken:]
            wrote = recording.sealer.seal_into(recording.next, plain[: got // CHUNK * CHUNK], out)
            # encodes as bytes do, without a copy more
            data = cast(bytes, out[:wrote])
            frames.append(Chunks(recording.id, recording.next, data))
            recording.next += got // CHUNK
            taken += wrote
        ended = recording.memo.ended
        if ended is not None and recording.next >= size // CHUNK:
            taken += self._last(recording, ended, frames)
        return taken

    def _last(self, recording: Recording, ended: Ended, frames: list[Frame]) -> int:
        """The last chunk, also of a partial recording: it holds the last that there is."""
        chunks, rest = ended.plain_bytes // CHUNK, ended.plain_bytes % CHUNK
        taken = 0
        if recording.next == chunks:
            plain = self._plain[:rest]
            if recording.files.audio.read_into(plain, chunks * CHUNK) != rest:
                recording.cut = True
                return 0
            sealed = recording.sealer.seal(chunks, bytes(plain), last=True)
            frames.append(Chunks(recording.id, chunks, sealed))
            taken = len(sealed)
        recording.next = chunks + 1
        recording.finished = True
        frames.append(
            End(
                recording.id,
                chunks=recording.next,
                plain_bytes=ended.plain_bytes,
                outcome=ended.outcome,
                reason=ended.reason,
                call_ms=ended.call_ms,
            )
        )
        return taken
