"""Waiting for something to become true, with a deadline and without blind sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.01


def until(check: Callable[[], T], timeout_s: float, what: str) -> T:
    """Polls `check` until it is true and returns its value; raises TimeoutError naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not (value := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(POLL_S)
    return value


async def eventually(check: Callable[[], T], timeout_s: float, what: str) -> T:
    """`until` for asyncio: other tasks run between the polls."""
    deadline = time.monotonic() + timeout_s
    while not (value := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(POLL_S)
    return value
