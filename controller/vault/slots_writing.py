"""Writing a file of slots in place: a destroyed slot leaves no older copy in the file.

    journal = "journal1" || first byte in the file (8) || size (4) || CRC-32 (4) || those bytes

Invariants, whatever moment a process dies or the power goes:
- `write` returns after the slot is synced. Its place was free: nothing can be lost by a torn write.
- `destroy` returns after the zeros are synced.
- `rewrap` changes slots in order, a batch at a time: journal synced, slots overwritten and synced,
  journal zeroed and synced. Opening for writing finishes a batch whose journal is whole. So each
  slot is the old or the new one, and the journal holds a key no longer than its batch lasts.
- After a failed sync nothing more is written until the file is opened anew: the kernel may have
  dropped the pages and would say "synced" next time.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.durable import replace, sync_folder
from controller.errors import VaultError
from controller.vault.slots import (
    HEADER,
    HEADER_BYTES,
    MAGIC,
    Slots,
    pack,
    unpack,
    used_places,
)

_JOURNAL = struct.Struct(">8sQII")
_JOURNAL_MAGIC = b"journal1"
_GROW_MIN_BYTES = 64 << 10
_GROW_MAX_BYTES = 8 << 20

Change = Callable[[bytes, bytes], bytes | None]


@dataclass(frozen=True)
class Progress:
    """How far a pass over all slots has come. failed: slots that could not be changed."""

    done: int
    slots: int
    changed: int
    failed: tuple[int, ...]


class WritableSlots(Slots):
    """The one writer: a second one is refused. For any thread; calls wait for each other."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._journal = -1
        self._lock = threading.RLock()
        self._broken = False
        try:
            self._claim()
            self._recover()
            self._used_map = self._map()
        except BaseException:
            self.close()
            raise
        self._hint = 0

    def _flags(self) -> int:
        return os.O_RDWR

    def _claim(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VaultError(
                f"another process writes {self._path}", hint="one keeper runs at a time"
            ) from None
        with self._io("opened"):
            journal = self._path.with_name(self._path.name + ".journal")
            self._journal = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            sync_folder(self._path.parent)

    def close(self) -> None:
        super().close()
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    @property
    def slots(self) -> int:
        """How many there are, free ones too."""
        return len(self._used_map)

    @property
    def used(self) -> int:
        return self._used_map.count(1)

    def write(self, owner: bytes, payload: bytes) -> int:
        """The number of the slot that holds it now, synced."""
        return self.write_many([(owner, payload)])[0]

    def write_many(self, entries: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """As `write`, with one sync for all: either all are told, or none."""
        packed = [pack(owner, payload, self.slot_bytes) for owner, payload in entries]
        with self._lock:
            numbers = self._claim_free(len(packed))
            with self._writing():
                for first, run in _runs(numbers, packed):
                    _pwrite(self._handle, run, self._at(first))
                os.fdatasync(self._handle)
            return numbers

    def destroy(self, number: int, owner: bytes) -> bool:
        """Overwrites the slot; False when it held no key of this owner any more.

        A damaged slot is overwritten too: whose it was, nobody can tell.
        """
        with self._lock:
            raw = self._raw(number, 1)
            if len(raw) < self.slot_bytes or not raw[0]:
                return False
            if (found := unpack(raw)) is not None and found[0] != owner:
                return False
            with self._writing():
                _pwrite(self._handle, bytes(self.slot_bytes), self._at(number))
                os.fdatasync(self._handle)
            self._used_map[number] = 0
            self._hint = min(self._hint, number)
            return True

    def rewrap(self, change: Change, batch: int = 4096) -> Iterator[Progress]:
        """Every used slot, in order: change(owner, payload) is its new payload, None to leave it.

        Yields after each batch, when other calls may come between. A slot that is damaged, or
        for which `change` raises VaultError, is left as it is and counted as failed.
        """
        changed, failed = 0, []
        first = 0
        while first < self.slots:
            with self._lock:
                raw = bytearray(self._raw(first, min(batch, self.slots - first)))
                fresh, wrong = self._changed(raw, change)
                if fresh:
                    with self._writing():
                        self._overwrite(first, raw)
            changed += fresh
            failed += [first + place for place in wrong]
            first += len(raw) // self.slot_bytes
            yield Progress(first, self.slots, changed, tuple(failed))

    def _changed(self, raw: bytearray, change: Change) -> tuple[int, list[int]]:
        fresh, wrong = 0, []
        for place in used_places(raw, self.slot_bytes):
            at = place * self.slot_bytes
            found = unpack(raw[at : at + self.slot_bytes])
            if found is None:
                wrong.append(place)
                continue
            owner, payload = found
            try:
                wanted = change(owner, payload)
            except VaultError:
                wrong.append(place)
                continue
            if wanted is not None:
                raw[at : at + self.slot_bytes] = pack(owner, wanted, self.slot_bytes)
                fresh += 1
        return fresh, wrong

    def _overwrite(self, first: int, raw: bytearray) -> None:
        at = self._at(first)
        head = _JOURNAL.pack(_JOURNAL_MAGIC, at, len(raw), zlib.crc32(raw))
        _pwrite(self._journal, head + raw, 0)
        os.fsync(self._journal)
        _pwrite(self._handle, raw, at)
        os.fdatasync(self._handle)
        self._zero_journal(_JOURNAL.size + len(raw))

    def _zero_journal(self, size: int) -> None:
        _pwrite(self._journal, bytes(size), 0)
        os.fdatasync(self._journal)

    def _recover(self) -> None:
        with self._io("recovered"):
            size = os.fstat(self._journal).st_size
            written = os.pread(self._journal, size, 0)
            if len(written) > _JOURNAL.size and written.startswith(_JOURNAL_MAGIC):
                _, at, length, crc = _JOURNAL.unpack_from(written)
                raw = written[_JOURNAL.size : _JOURNAL.size + length]
                if len(raw) == length and zlib.crc32(raw) == crc:
                    _pwrite(self._handle, raw, at)
                    os.fdatasync(self._handle)
            if written.strip(b"\0"):
                self._zero_journal(size)

    def _map(self) -> bytearray:
        with self._io("read"):
            size = os.fstat(self._handle).st_size
            if size - HEADER_BYTES < self.slot_bytes:
                return bytearray()
            with mmap.mmap(self._handle, 0, prot=mmap.PROT_READ) as whole:
                used = bytearray(whole[HEADER_BYTES :: self.slot_bytes])
        return used[: (size - HEADER_BYTES) // self.slot_bytes]

    def _claim_free(self, count: int) -> list[int]:
        numbers: list[int] = []
        while len(numbers) < count:
            found = self._used_map.find(0, self._hint)
            if found < 0:
                self._grow()
                continue
            numbers.append(found)
            self._hint = found + 1
            self._used_map[found] = 1  # for good: a write that failed may be there after all
        return numbers

    def _grow(self) -> None:
        """By an eighth: few syncs for a million slots, little to read for a few."""
        wanted = min(max(self.slots * self.slot_bytes // 8, _GROW_MIN_BYTES), _GROW_MAX_BYTES)
        slots = wanted // self.slot_bytes
        with self._io("grown"):  # on a full disk, nothing of the file has changed
            os.posix_fallocate(self._handle, self._at(self.slots), slots * self.slot_bytes)
            os.fsync(self._handle)
        self._used_map += bytes(slots)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._broken:
            raise VaultError(
                f"{self._path} failed to sync: it takes no writes any more",
                hint="look at the disk, then start the vault again",
            )
        try:
            with self._io("written"):
                yield
        except VaultError:
            self._broken = True
            raise


def create(path: Path, slot_bytes: int) -> None:
    """An empty file of slots, 0600. Raises VaultError when there is one, or it cannot be made."""
    if slot_bytes not in (64, 128, 256, 512, 1024, 2048, 4096):
        raise VaultError("a slot's size divides a page")  # so that no slot straddles two
    if path.exists():
        raise VaultError(f"{path} exists: the keys in it would be lost", hint="name another file")
    try:
        replace(path, HEADER.pack(MAGIC, slot_bytes).ljust(HEADER_BYTES, b"\0"))
    except OSError as error:
        raise VaultError(f"{path} cannot be made: {error.strerror}") from error


def _runs(numbers: Sequence[int], packed: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """Slots that lie side by side as one piece."""
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            yield numbers[start], b"".join(packed[start:end])
            start = end


def _pwrite(handle: int, data: bytes | bytearray, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written
