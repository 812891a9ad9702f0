"""Progress for what takes longer than a second, on stderr, only where somebody watches."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from controller.cli.session import Session

SHOWN_AFTER_S = 1.0
ASKED_TURNS = 5
_TURN = "|/-\\"


@contextmanager
def waiting(
    session: Session, what: str, share: Callable[[], float | None] | None = None
) -> Iterator[None]:
    """Shows `what` with a turning mark while the body takes longer than a second.

    share: how much of it is done, 0 to 1, None where nobody knows; asked once a second.
    """
    if not sys.stderr.isatty() or session.watch_s is not None:
        yield
        return
    done = threading.Event()

    def turn() -> None:
        pause, i, percent = SHOWN_AFTER_S, 0, ""
        while not done.wait(pause):
            if share and i % ASKED_TURNS == 0:
                done_share = share()
                percent = "" if done_share is None else f"{done_share:4.0%} "
            sys.stderr.write(f"\r{_TURN[i % 4]} {what} {percent}")
            sys.stderr.flush()
            pause, i = 0.2, i + 1
        if i:
            sys.stderr.write("\r" + " " * (len(what) + 9) + "\r")
            sys.stderr.flush()

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
