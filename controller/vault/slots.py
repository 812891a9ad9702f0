"""A file of fixed slots: its format, and reading it. slots_writing.py writes.

    file    = header || slot 0 || slot 1 || …
    header  = "pbxctl-slots-1\\n" || 0 || slot size (4) || zeros, 4096 bytes in all
    slot    = used (1) || 0 || payload size (2) || CRC-32 (4) || owner (16) || payload || zeros

Numbers are big-endian; used is 1 or 0, and a free slot is all zeros. The CRC is over the slot's
first four bytes, owner and payload. It finds damage; what proves a payload genuine is its own seal.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controller.errors import KeyDestroyed, VaultError

MAGIC = b"pbxctl-slots-1\n\0"
HEADER = struct.Struct(">16sI")
HEADER_BYTES = 4096
_SLOT = struct.Struct(">BBHI16s")
_READ_BYTES = 1 << 20
OWNER_BYTES = 16
SLOT_OVERHEAD_BYTES = _SLOT.size


class Slots:
    """Reading; any number of processes at once, beside one that writes. For any thread."""

    def __init__(self, path: Path) -> None:
        """Raises VaultError when there is no such file of ours."""
        self._path = path
        self._handle = -1
        with self._io("opened"):
            self._handle = os.open(path, self._flags() | os.O_CLOEXEC)
            header = os.pread(self._handle, HEADER.size, 0)
        if len(header) != HEADER.size or not header.startswith(MAGIC):
            self.close()
            raise VaultError(f"{path} is no file of key slots")
        self.slot_bytes = int(HEADER.unpack(header)[1])
        self.payload_max_bytes = self.slot_bytes - SLOT_OVERHEAD_BYTES

    def _flags(self) -> int:
        return os.O_RDONLY

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def read(self, number: int, owner: bytes) -> bytes:
        """The payload. Raises KeyDestroyed when the slot is free or somebody else's."""
        for _ in range(3):  # a writer may be at this very slot
            raw = self._raw(number, 1)
            if len(raw) < self.slot_bytes or not raw[0]:
                break
            if (found := unpack(raw)) is not None:
                if found[0] != owner:
                    break
                return found[1]
        else:
            raise VaultError(f"slot {number} of {self._path} is damaged")
        raise KeyDestroyed(f"slot {number} holds no key of it: destroyed")

    def items(self) -> Iterator[tuple[int, bytes, bytes]]:
        """(number, owner, payload) of each used slot, in order; damaged ones are left out."""
        for number, raw in self._in_use():
            if (found := unpack(raw)) is not None:
                yield number, *found

    def damaged(self) -> list[int]:
        """Slots that are in use and have a wrong CRC: what is in them cannot be opened."""
        return [number for number, raw in self._in_use() if unpack(raw) is None]

    def _in_use(self) -> Iterator[tuple[int, bytes]]:
        size = self.slot_bytes
        first = 0
        while raw := self._raw(first, _READ_BYTES // size):
            for place in used_places(raw, size):
                yield first + place, raw[place * size : (place + 1) * size]
            first += len(raw) // size

    def pieces(self) -> Iterator[bytes]:
        """The whole file, each slot as it was before or after a write that is under way."""
        with self._io("read"):
            yield os.pread(self._handle, HEADER_BYTES, 0)
        size = self.slot_bytes
        first = 0
        while raw := bytearray(self._raw(first, _READ_BYTES // size)):
            for place in used_places(raw, size):
                at = place * size
                for _ in range(3):
                    if unpack(raw[at : at + size]) is not None:
                        break
                    raw[at : at + size] = self._raw(first + place, 1)
            yield bytes(raw)
            first += len(raw) // size

    def find(self, owner: bytes) -> int | None:
        """The slot of `owner`: a search of the whole file, for what an index has forgotten."""
        with self._io("read"), mmap.mmap(self._handle, 0, prot=mmap.PROT_READ) as whole:
            at = whole.find(owner, HEADER_BYTES)
            while at >= 0:
                number, within = divmod(at - HEADER_BYTES, self.slot_bytes)
                if within == SLOT_OVERHEAD_BYTES - OWNER_BYTES and whole[at - within]:
                    return number
                at = whole.find(owner, at + 1)
        return None

    def _at(self, number: int) -> int:
        return HEADER_BYTES + number * self.slot_bytes

    def _raw(self, first: int, count: int) -> bytes:
        if first < 0:
            raise VaultError(f"no slot {first}")
        with self._io("read"):
            return os.pread(self._handle, count * self.slot_bytes, self._at(first))

    @contextmanager
    def _io(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VaultError(
                f"{self._path} cannot be {what}: {error.strerror}",
                hint="free some space" if error.errno == 28 else "",
            ) from error


def pack(owner: bytes, payload: bytes, slot_bytes: int) -> bytes:
    size = len(payload)
    if len(owner) != OWNER_BYTES or not 0 < size <= slot_bytes - SLOT_OVERHEAD_BYTES:
        raise VaultError(f"{size} bytes do not fit a slot of {slot_bytes}")
    head = b"\1\0" + size.to_bytes(2)
    crc = zlib.crc32(payload, zlib.crc32(owner, zlib.crc32(head)))
    return (head + crc.to_bytes(4) + owner + payload).ljust(slot_bytes, b"\0")


def unpack(raw: bytes | bytearray) -> tuple[bytes, bytes] | None:
    """(owner, payload) of a used slot; None when it is damaged."""
    _, _, size, crc, owner = _SLOT.unpack_from(raw)
    payload = bytes(raw[SLOT_OVERHEAD_BYTES : SLOT_OVERHEAD_BYTES + size])
    if len(payload) != size or zlib.crc32(payload, zlib.crc32(owner, zlib.crc32(raw[:4]))) != crc:
        return None
    return owner, payload


def used_places(raw: bytes | bytearray, slot_bytes: int) -> Iterator[int]:
    marks = raw[::slot_bytes]
    return (place for place, used in enumerate(marks) if used)
