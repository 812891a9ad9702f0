"""A recording's objects in the store: parts while it grows, one body once it has ended.

    open/ID/begin           Opening: header and prologue
    open/ID/part-00000000   sealed chunks end to end, the first one's index in the name
    open/ID/end             the End that the agent said
    bodies/ab/ID            prologue and all chunks: a Cobblestone body as any reader takes it
    heads/ab/ID             Head: what the body is, so that it can be checked without a key

The order at the end: body, head, then what is open goes, in any order: what has a head is finished,
whatever is left of its parts. What is cut short before is done again from what is there, with the
same bytes. Everything here blocks.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TypeVar

import msgspec

from controller.errors import StoreUnreachable, Tampered
from controller.vault import header as headers
from controller.vault.body import PROLOGUE, SEALED
from controller.vault.header import Header
from controller.vault.store import AlreadyStored, Store, Stored
from controller.vault.wire import End, Outcome

_PART = "part-"
_PIECE_BYTES = 4 << 20
_S = TypeVar("_S", bound=msgspec.Struct)


class Opening(msgspec.Struct, frozen=True):
    header: bytes
    prologue: bytes


class Head(msgspec.Struct, frozen=True):
    """A finished recording. sha256: of the body, in hex."""

    header: bytes
    end: End
    sealed_bytes: int
    sha256: str


@dataclass(frozen=True, order=True)
class Part:
    """chunks: how many, a short last one counted too."""

    first: int
    chunks: int
    size_bytes: int

    @property
    def after(self) -> int:
        return self.first + self.chunks


@dataclass
class Growing:
    """A recording without its body yet. parts: by their first chunk, none overlaps another.

    written: this process has put a part of it.
    """

    opening: Opening
    header: Header
    parts: list[Part] = field(default_factory=list)
    end: End | None = None
    heard_s: float = 0.0
    written: bool = False

    @property
    def next(self) -> int:
        """The first chunk that is missing."""
        count = _without_gap(self.parts)
        return self.parts[count - 1].after if count else 0

    @property
    def has_last(self) -> bool:
        """Whether its short chunk, after which nothing can come, is here."""
        return bool(self.parts) and self.parts[-1].size_bytes % SEALED != 0

    @property
    def sealed_bytes(self) -> int:
        """Of the body that the chunks without a gap make."""
        whole = self.parts[: _without_gap(self.parts)]
        return PROLOGUE + sum(part.size_bytes for part in whole)


def _without_gap(parts: list[Part]) -> int:
    after = 0
    for count, part in enumerate(parts):
        if part.first != after:
            return count
        after = part.after
    return len(parts)


class Bodies:
    """Raises StoreUnreachable from any method, Tampered where an object of ours is damaged."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def begin(self, recording: str, opening: Opening) -> None:
        """One that has begun already keeps its opening."""
        with contextlib.suppress(AlreadyStored):
            self.store.put(_open(recording, "begin"), msgspec.msgpack.encode(opening))

    def growing(self, recording: str) -> Growing | None:
        """As the store has it; None when it has not begun, or is a body alone."""
        found = self.store.below(f"open/{recording}")
        names = {PurePosixPath(stored.key).name: stored for stored in found}
        if "begin" not in names:
            return None
        try:
            opening = self._decoded(_open(recording, "begin"), Opening)
            end = self._decoded(_open(recording, "end"), End) if "end" in names else None
        except FileNotFoundError:  # it was joined since it was listed
            return None
        parts = [_part(stored) for name, stored in names.items() if name.startswith(_PART)]
        heard_s = max(stored.modified_s for stored in found)
        return Growing(opening, headers.decode(opening.header), sorted(parts), end, heard_s)

    def all_growing(self) -> list[str]:
        return self.store.folders("open")

    def put_part(self, recording: str, first: int, data: bytes, *, beside: bool) -> Part:
        """Raises AlreadyStored when a part begins there. beside: as Store.put has it."""
        self.store.put(_part_key(recording, first), data, beside=beside)
        return Part(first, -(-len(data) // SEALED), len(data))

    def part_bytes(self, recording: str, part: Part) -> bytes:
        return self.store.read(_part_key(recording, part.first), 0, part.size_bytes)

    def put_end(self, recording: str, end: End) -> bool:
        """False when it has ended already."""
        try:
            self.store.put(_open(recording, "end"), msgspec.msgpack.encode(end))
        except AlreadyStored:
            return False
        return True

    def head(self, recording: str) -> Head | None:
        """None when it has no body yet."""
        try:
            return self._decoded(_shelf("heads", recording), Head)
        except FileNotFoundError:
            return None

    def finish(self, recording: str, growing: Growing) -> Head:
        """Joins an ended recording into its body. Its parts stay until `drop_parts`."""
        assert growing.end is not None  # noqa: S101 - the caller's to know
        if head := self.head(recording):
            return head
        sha256 = self.store.put_long(_shelf("bodies", recording), self._joined(recording, growing))
        head = Head(growing.opening.header, growing.end, growing.sealed_bytes, sha256)
        try:
            self.store.put(_shelf("heads", recording), msgspec.msgpack.encode(head))
        except AlreadyStored:  # another vault was as quick; its head says the same
            return self.head(recording) or head
        return head

    def _joined(self, recording: str, growing: Growing) -> Iterator[bytes]:
        pending = [growing.opening.prologue]
        for part in growing.parts[: _without_gap(growing.parts)]:
            pending.append(self.part_bytes(recording, part))
            if sum(map(len, pending)) > _PIECE_BYTES:
                yield b"".join(pending)
                pending = []
        yield b"".join(pending)

    def drop_parts(self, recording: str) -> None:
        for stored in self.store.below(f"open/{recording}"):
            self.store.delete(stored.key)

    def delete(self, recording: str) -> None:
        """The sealed bytes. The head stays, without personal data: the id is never taken again."""
        self.drop_parts(recording)
        self.store.delete(_shelf("bodies", recording))

    def open_body(self, recording: str) -> tuple[Callable[[int, int], bytes], int, bool]:
        """(read, sealed_bytes, complete) as body.Reader takes them, also while it grows.

        Raises FileNotFoundError when there is nothing of it.
        """
        head = self.head(recording)
        growing = None if head else self.growing(recording)
        if head is None and growing is None:
            head = self.head(recording)  # it may have been joined in between
        if head is not None:
            key = _shelf("bodies", recording)
            size = self.store.size(key)
            return self._read_body(key, size), size, head.end.outcome is Outcome.COMPLETE
        if growing is None:
            raise FileNotFoundError(recording)
        complete = growing.end is not None and growing.end.outcome is Outcome.COMPLETE
        return self._read_parts(recording, growing), growing.sealed_bytes, complete

    def _read_body(self, key: str, sealed_bytes: int) -> Callable[[int, int], bytes]:
        def read(offset: int, size: int) -> bytes:
            return self.store.read(key, offset, max(0, min(size, sealed_bytes - offset)))

        return read

    def _read_parts(self, recording: str, growing: Growing) -> Callable[[int, int], bytes]:
        parts = growing.parts[: _without_gap(growing.parts)]
        starts = [PROLOGUE + part.first * SEALED for part in parts]

        def read(offset: int, size: int) -> bytes:
            found = [growing.opening.prologue[offset : offset + size]]
            wanted = size - len(found[0])
            at = max(offset, PROLOGUE)
            index = max(0, bisect.bisect_right(starts, at) - 1)
            for part, start in zip(parts[index:], starts[index:], strict=True):
                if wanted <= 0:
                    break
                here = min(wanted, start + part.size_bytes - at)
                try:
                    key = _part_key(recording, part.first)
                    found.append(self.store.read(key, at - start, here))
                except FileNotFoundError:  # joined since: the body has it at the same place
                    found.append(self.store.read(_shelf("bodies", recording), at, here))
                at += here
                wanted -= here
            return b"".join(found)

        return read

    def check_body(self, recording: str, head: Head) -> None:
        """Raises Tampered when the body is gone or is not what was stored."""
        key = _shelf("bodies", recording)
        try:
            size = self.store.size(key)
            if size == head.sealed_bytes and self.store.digest(key) == head.sha256:
                return
        except FileNotFoundError:
            raise Tampered(f"the body of {recording} is gone from {self.store.where}") from None
        raise Tampered(
            f"the body of {recording} is not what was stored: {size} of {head.sealed_bytes} bytes"
        )

    def _decoded(self, key: str, kind: type[_S]) -> _S:
        try:
            return msgspec.msgpack.decode(self.store.read_all(key), type=kind)
        except msgspec.DecodeError as error:
            raise StoreUnreachable(
                f"{self.store.where}: {key} is damaged: {error}", hint="pbxctl vault check"
            ) from error


def _open(recording: str, name: str) -> str:
    return f"open/{recording}/{name}"


def _part_key(recording: str, first: int) -> str:
    return _open(recording, f"{_PART}{first:08d}")


def _shelf(kind: str, recording: str) -> str:
    return f"{kind}/{recording[:2]}/{recording}"


def _part(stored: Stored) -> Part:
    first = int(PurePosixPath(stored.key).name.removeprefix(_PART))
    return Part(first, -(-stored.size_bytes // SEALED), stored.size_bytes)
