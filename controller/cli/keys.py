"""Single keys from a terminal, and the terminal as it was afterwards, also on SIGTERM."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMED = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\r": "enter"}


def _stop(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def raw_keys() -> Iterator[Keys]:
    """Keys without Enter and without echo. SIGTERM and SIGHUP end the block like Ctrl-C."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    handlers = {s: signal.signal(s, _stop) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(fd)
        yield Keys(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Keys:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def next(self, within_s: float) -> str:
        """The next key within so many seconds: a character, "up", "down", "enter", or ""."""
        ready, _, _ = select.select([self._fd], [], [], within_s)
        if not ready:
            return ""
        data = os.read(self._fd, 16)
        if not data:
            raise KeyboardInterrupt  # the terminal is gone
        if data in _NAMED:
            return _NAMED[data]
        return data[:1].decode("ascii", "replace") if not data.startswith(b"\x1b") else "escape"
