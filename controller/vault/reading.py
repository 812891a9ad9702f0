"""Opens recordings for those who may: any place of the audio, its picture, its proof. Blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.errors import KeyDestroyed, NotFound, Tampered
from controller.records.recording_rows import READABLE, RecordingRow
from controller.vault import fields, peaks
from controller.vault.bodies import Bodies
from controller.vault.body import CHUNK, Reader
from controller.vault.custody import Custody
from controller.vault.wav import frame_bytes, wav_header

_PART_BYTES = 64 * CHUNK


@dataclass(frozen=True)
class Audio:
    """A piece of a recording: whole frames of s16le from byte `first` to byte `end`."""

    row: RecordingRow
    reader: Reader
    first: int
    end: int

    @property
    def wav_bytes(self) -> int:
        return len(self.wav_header()) + self.end - self.first

    @property
    def frames(self) -> int:
        return (self.end - self.first) // frame_bytes(self.row.channels)

    def wav_header(self) -> bytes:
        size = self.end - self.first
        return wav_header(size, rate_hz=self.row.rate_hz, channels=self.row.channels)

    def parts(self) -> Iterator[bytes]:
        """The audio, in order. Raises Tampered, with the chunk, before a byte of it is given."""
        at = self.first
        while at < self.end:
            part = self.reader.read(at, min(_PART_BYTES - at % CHUNK, self.end - at))
            yield part
            at += len(part)

    def peaks(self, columns: int) -> list[tuple[int, ...]]:
        return peaks.peaks(self.parts(), self.frames, channels=self.row.channels, columns=columns)


@dataclass(frozen=True)
class Verdict:
    """bad: chunks that are not what was sealed, the first 100. words: what else is wrong."""

    chunks: int
    bad: tuple[int, ...]
    words: str


_BAD_MAX = 100


class Reading:
    def __init__(self, bodies: Bodies, custody: Custody) -> None:
        self._bodies = bodies
        self._custody = custody

    def audio(self, row: RecordingRow, from_ms: int = 0, to_ms: int | None = None) -> Audio:
        """From and to count from the recording's start; beyond its end they are its end.

        Raises NotFound for one that is erased or whose body is gone, Tampered.
        """
        reader = self._reader(row)
        frame = frame_bytes(row.channels)
        whole = reader.plain_bytes - reader.plain_bytes % frame
        per_ms = row.rate_hz * frame / 1000

        def place(ms: int) -> int:
            return min(whole, int(ms * per_ms) // frame * frame)

        first, end = place(from_ms), whole if to_ms is None else place(to_ms)
        return Audio(row, reader, first, max(first, end))

    def verify(self, row: RecordingRow) -> Verdict:
        """Opens every chunk, to the end, and tells which are not genuine."""
        try:
            reader = self._reader(row)
        except Tampered as error:
            return Verdict(0, () if error.chunk is None else (error.chunk,), error.message)
        bad: list[int] = []
        at = 0
        while at < reader.plain_bytes and len(bad) < _BAD_MAX:
            try:
                reader.read(at, _PART_BYTES)
                at += _PART_BYTES
            except Tampered as error:
                if error.chunk is None:
                    return Verdict(reader.chunks, tuple(bad), error.message)
                bad.append(error.chunk)
                at = (error.chunk + 1) * CHUNK
        words = ""
        if row.ended_ms and reader.plain_bytes != row.plain_bytes:
            words = f"{reader.plain_bytes} bytes of audio, the index has {row.plain_bytes}"
        return Verdict(reader.chunks, tuple(bad), words)

    def numbers(self, row: RecordingRow) -> tuple[str, str]:
        """(caller, callee); empty for one that is erased."""
        if row.caller is None or row.callee is None:
            return "", ""
        try:
            key = self._data_key(row)
        except KeyDestroyed:
            return "", ""
        return (
            fields.open_field(key, row.recording, "caller", row.caller),
            fields.open_field(key, row.recording, "callee", row.callee),
        )

    def _data_key(self, row: RecordingRow) -> bytes:
        if row.slot is None or row.state not in READABLE:
            raise KeyDestroyed(f"{row.recording} is erased")
        return self._custody.slots.data_key(row.slot, row.tenant, row.recording)

    def _reader(self, row: RecordingRow) -> Reader:
        try:
            key = self._data_key(row)
            read, sealed_bytes, complete = self._bodies.open_body(row.recording)
        except KeyDestroyed as error:
            raise NotFound(
                f"{row.recording} is erased; nobody can open it any more",
                hint=f"pbxctl recordings show {row.recording} has the record of that",
            ) from error
        except FileNotFoundError:
            raise Tampered(
                f"the body of {row.recording} is gone from {self._bodies.store.where}",
                hint="bring it back from a backup of the store: what is sealed is no secret there",
            ) from None
        return Reader(row.suite, key, row.header, read, sealed_bytes, complete)
