"""The audio of a recording as its PBX writes it into the tmpfs, read as s16le stereo.

One stereo file, or two mono ones that are interleaved here: controller/pbx/recorded_files.py.

All blocks and raises OSError.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
from collections.abc import Sequence
from pathlib import Path

FRAME_BYTES = 4  # s16le, two sides
_FALLOC_PUNCH = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, linux/falloc.h
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Audio:
    """Byte counts are of the stereo that is read here, whatever the files hold."""

    def __init__(self, paths: Sequence[Path], step: int) -> None:
        self._paths = paths
        self._step = step
        self._fds: list[int] = []

    def make(self, group: int | None) -> None:
        """Empty files, which `group` may write and cannot read."""
        for path in self._paths:
            self._fds.append(make_file(path, group))

    def open(self) -> None:
        for path in self._paths:
            self._fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def size(self) -> int:
        """What is whole: both sides of it have come. Asked of every recording in every tick."""
        if len(self._fds) == 1:
            return os.lseek(self._fds[0], 0, os.SEEK_END)
        return min(self._sizes())

    def size_at_end(self) -> int:
        """Once nothing more comes: a side that a crash cut short ends in silence."""
        return max(self._sizes())

    def _sizes(self) -> list[int]:
        if not self._fds:
            raise OSError(errno.EBADF, "the audio is not open", str(self._paths))
        ends = [os.lseek(fd, 0, os.SEEK_END) for fd in self._fds]
        if len(ends) == 1:
            return ends
        return [end // (2 * self._step) * FRAME_BYTES for end in ends]

    def read_into(self, out: memoryview, at: int) -> int:
        """How many bytes of `out` were filled."""
        if not self._fds:
            raise OSError(errno.EBADF, "the audio is not open", str(self._paths))
        if len(self._fds) == 1:
            return os.preadv(self._fds[0], [out], at)
        both, most = bytearray(len(out)), 0
        for side, fd in enumerate(self._fds):
            mono = bytearray(len(out) * self._step // 2)
            most = max(most, os.preadv(fd, [mono], at * self._step // 2))
            # Byte by byte: three times as fast as samples by a memoryview with a stride.
            for byte in (0, 1):
                both[2 * side + byte :: FRAME_BYTES] = mono[byte :: 2 * self._step]
        out[:] = both
        return most // (2 * self._step) * FRAME_BYTES

    def forget(self, start: int, size: int) -> None:
        """Frees it; the files stay as long as they were."""
        for path in self._paths:
            # our own open for writing lasts only for this: `has_writer` would see it
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                at, length = start, size
                if len(self._paths) > 1:
                    at, length = at * self._step // 2, length * self._step // 2
                if _libc.fallocate(fd, _FALLOC_PUNCH, at, length):
                    raise OSError(ctypes.get_errno(), "fallocate", str(path))
            finally:
                os.close(fd)

    def has_writer(self) -> bool:
        """Whether any process has a file open for writing (fcntl(2), F_SETLEASE).

        A process that opens it in this very moment waits for some µs, and a signal comes here: by
        default SIGIO, which would end us, so SIGURG, which does nothing. Raises OSError where
        leases cannot be had.
        """
        return any(_has_writer(fd) for fd in self._fds)

    def last_written_s(self) -> float:
        return max(os.fstat(fd).st_mtime for fd in self._fds)


def make_file(path: Path, group: int | None) -> int:
    """Open for reading. For the PBX's group to write, where it has one."""
    flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOATIME
    fd = os.open(path, flags, 0o600)
    if group is not None:
        os.fchown(fd, -1, group)
        os.fchmod(fd, 0o620)
    return fd


def _has_writer(fd: int) -> bool:
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return True
        raise
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
