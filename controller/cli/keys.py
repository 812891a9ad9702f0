"""Single keys from a terminal, and the terminal as it was afterwards, also on SIGTERM."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# ECMA-48 control sequences and the SS3 arrows of application mode; a bare Escape is a key alone.
_KEY = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO[@-~]|[\s\S]")
_NAMED = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\r": "enter",
    b"\n": "enter",  # a terminal's ICRNL makes this of Enter
    b"\x1b": "escape",
    b"\x7f": "backspace",
    b"\x08": "backspace",
}


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
    """Reads keys one by one, though fast typing brings several at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._typed = b""

    def next(self, within_s: float) -> str:
        """The next key within so many seconds: a character, a name of _NAMED, or ""."""
        if not self._typed:
            ready, _, _ = select.select([self._fd], [], [], within_s)
            if not ready:
                return ""
            self._typed = os.read(self._fd, 256)
            if not self._typed:
                raise KeyboardInterrupt  # the terminal is gone
        key, self._typed = first_key(self._typed)
        return key


def first_key(typed: bytes) -> tuple[str, bytes]:
    """The first key of what was typed, and the rest. Escape sequences without a name are ""."""
    match = _KEY.match(typed)
    raw = match[0] if match else typed[:1]
    name = _NAMED.get(raw, "" if raw.startswith(b"\x1b") else raw.decode("ascii", "replace"))
    return name, typed[len(raw) :]
