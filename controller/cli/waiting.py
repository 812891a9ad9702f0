"""Progress for what takes longer than a second, on stderr, only where somebody watches."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from controller.cli.session import Session

SHOWN_AFTER_S = 1.0
_TURN = "|/-\\"


@contextmanager
def waiting(session: Session, what: str) -> Iterator[None]:
    """Shows `what` with a turning mark while the body takes longer than a second."""
    if not sys.stderr.isatty() or session.watch_s is not None:
        yield
        return
    done = threading.Event()

    def turn() -> None:
        pause, i = SHOWN_AFTER_S, 0
        while not done.wait(pause):
            sys.stderr.write(f"\r{_TURN[i % 4]} {what} ")
            sys.stderr.flush()
            pause, i = 0.2, i + 1
        if i:
            sys.stderr.write("\r" + " " * (len(what) + 3) + "\r")
            sys.stderr.flush()

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
