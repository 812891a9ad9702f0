"""Sealed audio on disk while the vault is away: requests to come, in order, a file each.

A file is one request's body (vault/wire.py), which makes sense without any before it; nothing in it
is plain, and no key. It is there whole and synced, or not at all.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from controller.durable import own_folder, sync_folder
from controller.vault import wire
from controller.vault.body import SEALED
from controller.vault.wire import Ack, Begin, End, Frame, State

_NAME = re.compile(r"[0-9]{16}", re.ASCII)
#: left to the rest of the machine, whatever the limit is
FREE_MIN_BYTES = 64 << 20
#: what a vault says it misses for so long it will always miss; several vaults on one store may each
#: be behind what the others have stored, for a minute (vault/ingest.py)
GAP_S = 150.0


class SpoolFull(Exception):
    """The message says what is full."""


class Spool:
    """Blocks. Raises OSError where the disk fails."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._refused = folder / "refused"
        self._max_bytes = max_bytes
        own_folder(folder)
        for path in folder.glob("*.new"):
            path.unlink()
        self._sizes = {
            int(path.name): path.stat().st_size
            for path in sorted(folder.iterdir())
            if _NAME.fullmatch(path.name)
        }
        aside = (path.name for path in self._refused.glob("*"))
        self._next = max([0, *self._sizes, *(int(n) for n in aside if _NAME.fullmatch(n))]) + 1
        self.bytes = sum(self._sizes.values())
        #: recordings of which something is gone before what is here
        self._torn: set[str] = set()
        self._waits: tuple[int, float] = 0, 0.0

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, body: bytes) -> None:
        """Returns once it is synced. Raises SpoolFull; then nothing was written."""
        if self.bytes + len(body) > self._max_bytes:
            raise SpoolFull(f"recordings.spool_max_mb is {self._max_bytes >> 20}")
        facts = os.statvfs(self._folder)
        if facts.f_bavail * facts.f_frsize < FREE_MIN_BYTES + len(body):
            raise SpoolFull(f"the disk of {self._folder} is full")
        number = self._next
        new = self._folder / f"{number:016}.new"
        try:
            with open(new, "wb", opener=_closed) as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path(number))
            sync_folder(self._folder)
        except OSError:
            # whether it is there is not certain: it is as if it were not, and comes again
            new.unlink(missing_ok=True)
            self._path(number).unlink(missing_ok=True)
            raise
        self._next += 1
        self._sizes[number] = len(body)
        self.bytes += len(body)

    def first(self) -> tuple[int, bytes] | None:
        """The oldest one, under its number."""
        if not self._sizes:
            return None
        number = next(iter(self._sizes))
        return number, self._path(number).read_bytes()

    def drop(self, number: int) -> None:
        """The vault has it."""
        self._path(number).unlink(missing_ok=True)
        self.bytes -= self._sizes.pop(number, 0)

    def set_aside(self, number: int) -> None:
        """The vault refuses it for good: a person may want to see it."""
        self._refused.mkdir(mode=0o700, exist_ok=True)
        self._path(number).replace(self._refused / self._path(number).name)
        self.bytes -= self._sizes.pop(number, 0)

    def settle(self, number: int, acks: list[Ack], now_s: float) -> str | None:
        """Lets go of a request that the vault will never need again; None when it is to be sent
        again, else what a person is to be told, which is mostly nothing.

        Raises OSError, msgspec.DecodeError.
        """
        frames = wire.frames(self._path(number).read_bytes())
        left = [frame for frame in frames if not covers(acks, frame)]
        if not left:
            refused = any(ack.state is State.REFUSED for ack in acks)
            self.set_aside(number) if refused else self.drop(number)
            return ""
        if not all(_misses(acks, frame) for frame in left):
            return None
        torn = {frame.recording for frame in left} - self._torn
        if torn:
            if self._waits[0] != number:
                self._waits = number, now_s
            if now_s - self._waits[1] < GAP_S:
                return None
            self._torn |= torn
        self.set_aside(number)
        names = ", ".join(sorted(torn))
        return f"the vault misses a part of {names}; what follows is set aside" if torn else ""

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:016}"


def _closed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


class Openings:
    """Begins of recordings that have not ended, on disk: for a node that loses its memory.

    What they were is lost with it; the vault is told that no more comes. Not synced: a power cut
    may lose the newest, of which the vault gives up waiting by itself.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        own_folder(folder)

    def add(self, recording: str, begin: bytes) -> None:
        with open(self._folder / recording, "wb", opener=_closed) as file:
            file.write(begin)

    def drop(self, recording: str) -> None:
        (self._folder / recording).unlink(missing_ok=True)

    def all(self) -> dict[str, bytes]:
        """Those that are whole; what a power cut or a full disk cut short is removed: the vault
        would refuse it for ever."""
        found = {}
        for path in self._folder.iterdir():
            begin = path.read_bytes()
            if _is_begin(path.name, begin):
                found[path.name] = begin
            else:
                path.unlink(missing_ok=True)
        return found


def _is_begin(recording: str, data: bytes) -> bool:
    try:
        [frame] = wire.frames(b"\x91" + data)  # a list of one
    except msgspec.DecodeError:
        return False
    return isinstance(frame, Begin) and frame.recording == recording


def covers(acks: list[Ack], frame: Frame) -> bool:
    """Whether the vault will never need the frame again."""
    ack = next((ack for ack in acks if ack.recording == frame.recording), None)
    if ack is None or ack.state is State.UNKNOWN:
        return False
    if ack.state in (State.REFUSED, State.ENDED) or isinstance(frame, Begin):
        return True
    if isinstance(frame, End):
        return False
    return ack.next >= frame.first + -(-len(frame.data) // SEALED)


def _misses(acks: list[Ack], frame: Frame) -> bool:
    """Whether the vault took nothing of the frame because something before it never came."""
    ack = next((ack for ack in acks if ack.recording == frame.recording), None)
    if ack is None or ack.state is not State.OPEN or isinstance(frame, Begin):
        return False
    return ack.next < (frame.chunks if isinstance(frame, End) else frame.first)
