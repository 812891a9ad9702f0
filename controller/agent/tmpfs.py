"""Where recordings lie in clear, and nowhere else: files in a tmpfs that is never swapped out.

For each recording the agent makes its files before the PBX hears of it:
    ID.raw    the audio, s16le, or two files (audio.py). The PBX's group may write it, and cannot
              read it.
    ID.end    empty; the PBX writes a byte into it when the recording ends in order.
    ID.memo   the agent's own: the data key, and how far the audio is safe elsewhere.
The PBX needs no right to make, remove or list files here. That the agent owns them lets it ask the
kernel for a lease, which is refused while anybody has the file open for writing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from controller.agent.audio import Audio, make_file
from controller.errors import PbxctlError
from controller.pbx.recorded_files import NAMES, STEREO, Layout
from controller.vault.wire import Begin, Outcome

_MARK = struct.Struct("<Q")
_ID = re.compile(r"[0-9a-f]{32}\.memo", re.ASCII)
_ID_CHARS = 32
STRAY_S = 5.0
_OURS = re.compile(r"[0-9a-f]{32}(-[lr])?\.(raw|sln32|end|new)", re.ASCII)
MOUNTS = Path("/proc/self/mountinfo")
SWAPS = Path("/proc/swaps")
_libc = ctypes.CDLL(None, use_errno=True)


class Ended(msgspec.Struct, frozen=True):
    """That no more audio comes. Written before the last chunk is sealed: there is one last chunk.

    call_ms: from the recording's beginning to the end of the call, None where nobody knows.
    """

    plain_bytes: int
    outcome: Outcome
    reason: str
    call_ms: int | None


class Memo(msgspec.Struct, frozen=True):
    """What a restarted agent needs to go on. pbx, leg: the call and its leg as the PBX names them.

    Holds the data key: it stays in the tmpfs.
    """

    begin: Begin
    data_key: bytes
    salt: bytes
    started_us: int
    call: str
    pbx: str
    leg: str
    rule: str
    ended: Ended | None = None
    layout: Layout = STEREO


_decode = msgspec.msgpack.Decoder(Memo).decode


def problem_of(
    folder: Path, *, noswap: bool = True, mounts: Path = MOUNTS, swaps: Path = SWAPS
) -> str:
    """Why audio must not be written into `folder`, "" where that is a tmpfs that nobody swaps out.

    noswap: it has to be mounted so, whatever else is true; False takes any tmpfs, as long as the
    machine has no swap at all. mounts, swaps: proc_pid_mountinfo(5), proc_swaps(5).
    """
    try:
        text = mounts.read_text()
        real = Path(os.path.realpath(folder))
    except OSError as error:
        return f"the mounts cannot be read: {error}"
    best: tuple[int, str, list[str]] | None = None
    for line in text.splitlines():
        own, _, rest = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), own.split()[4]))
        if real.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            kind, _, options = rest.split()[:3]
            best = len(point.parts), kind, options.split(",")
    if best is None or best[1] != "tmpfs":
        return f"{folder} is on {best[1] if best else 'nothing'}, not on a tmpfs"
    if "noswap" not in best[2]:
        if noswap:
            return f"the tmpfs at {folder} may be swapped out: mount it with noswap"
        if problem := _swap_problem(swaps):
            return f"the tmpfs at {folder} is mounted without noswap, and {problem}"
    return "" if folder.is_dir() else f"{folder} is not there"


def _swap_problem(swaps: Path) -> str:
    try:
        devices = [line.split()[0] for line in swaps.read_text().splitlines()[1:]]
    except OSError as error:
        return f"whether there is swap cannot be read: {swaps}: {error.strerror}"
    return f"this machine swaps to {', '.join(devices)}" if devices else ""


class Files:
    """The files of one recording. audio: what its PBX writes, of files that are open."""

    def __init__(self, folder: Path, recording: str) -> None:
        self._stem = folder / recording
        self.recording = recording
        self.audio = Audio((), 1)

    def make(self, memo: Memo, group: int | None) -> None:
        """Raises OSError; then nothing is left behind."""
        try:
            self.write(memo, 0)
            os.close(make_file(self._end, group))
            self.audio = self._audio(memo.layout)
            self.audio.make(group)
        except OSError:
            self.remove()
            raise

    def open(self) -> Memo:
        """As an agent finds them that was started again. Raises OSError, msgspec.DecodeError."""
        memo = _decode(self._memo.read_bytes()[_MARK.size :])
        self.audio = self._audio(memo.layout)
        self.audio.open()
        return memo

    def _audio(self, layout: Layout) -> Audio:
        return Audio([self._with(name) for name in layout.names], layout.step)

    def _with(self, name: str) -> Path:
        return self._stem.with_name(self._stem.name + name)

    @property
    def raw(self) -> Path:
        """What a PBX is told to record into; by its id, where there are two files."""
        return self._stem.with_suffix(".raw")

    @property
    def _end(self) -> Path:
        return self._stem.with_suffix(".end")

    @property
    def _memo(self) -> Path:
        return self._stem.with_suffix(".memo")

    def write(self, memo: Memo, mark: int) -> None:
        """Whole or not at all, should the agent be killed meanwhile."""
        new = self._stem.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, _MARK.pack(mark) + msgspec.msgpack.encode(memo))
        finally:
            os.close(fd)
        new.replace(self._memo)

    def mark(self) -> int:
        """Chunks below it are gone from here: they must never be read, nor sealed again."""
        with self._memo.open("rb") as file:
            return int(_MARK.unpack(file.read(_MARK.size))[0])

    def forget(self, chunks: int, chunk_bytes: int, before: int) -> None:
        """Frees the audio of chunks `before` to `chunks`, which are safe elsewhere."""
        fd = os.open(self._memo, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, _MARK.pack(chunks), 0)
        finally:
            os.close(fd)
        self.audio.forget(before * chunk_bytes, (chunks - before) * chunk_bytes)

    def ended_in_order(self) -> bool:
        try:
            return self._end.stat().st_size > 0
        except OSError:
            return False

    def end_in_order(self) -> None:
        """The note, where we stop the recording ourselves."""
        self._end.write_bytes(b"1")

    def close(self) -> None:
        self.audio.close()

    def remove(self) -> None:
        """The key goes last: without it the audio would be left without its name."""
        self.close()
        for path in (
            *map(self._with, sorted(NAMES)), self._end, self._stem.with_suffix(".new"), self._memo
        ):  # fmt: skip
            path.unlink(missing_ok=True)


def found(folder: Path) -> list[Files]:
    """Recordings that a former agent left. Audio without a key is of no use, and is removed."""
    ids = {path.stem for path in folder.iterdir() if _ID.fullmatch(path.name)}
    for path in folder.iterdir():
        if path.name[:_ID_CHARS] not in ids and _OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)
    return [Files(folder, recording) for recording in sorted(ids)]


def sweep(folder: Path, live: Collection[str]) -> None:
    """Removes what a PBX wrote of recordings that are no more: an Asterisk that may make files
    notes the end of a call whose recording was stopped before. live: ids of those that are."""
    for path in folder.iterdir():
        if path.name[:_ID_CHARS] not in live and _OURS.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STRAY_S:  # not one that is being made
                    path.unlink()


def make_folder(folder: Path, group: int | None) -> None:
    """The node's own below the tmpfs: its PBX may pass, and see nothing. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if group is not None:
        os.chown(folder, -1, group)
        folder.chmod(0o710)


def used_share(folder: Path) -> float:
    """Of the tmpfs, 0 to 1."""
    facts = os.statvfs(folder)
    return 1 - facts.f_bavail / facts.f_blocks if facts.f_blocks else 0.0


def lock_memory() -> None:
    """Keeps this process, with its keys and the audio it seals, out of swap and core files.

    Raises PbxctlError when it may not: RLIMIT_MEMLOCK.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.mlockall(1 | 2):  # MCL_CURRENT | MCL_FUTURE
        raise PbxctlError(
            f"memory cannot be locked: {os.strerror(ctypes.get_errno())}",
            hint="LimitMEMLOCK=infinity in the agent's unit, or no swap on this machine",
        )
