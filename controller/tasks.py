"""Waiting for several things at once, without losing a cancellation.

asyncio's own tools lose one in a rare moment, and a cancelled task then runs on for ever:
wait_for before Python 3.12 when it meets the end of what is waited for, TaskGroup before 3.13
when it comes while a failed task takes its siblings down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def together(*work: Coroutine[Any, Any, object]) -> None:
    """Runs all until the first ends or fails, and cancels the others; raises the first failure."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    failures = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    for task in done:
        task.result()
    if failures:
        raise failures[0]


async def is_set(event: asyncio.Event, within_s: float) -> bool:
    """Waits for the event at most so long; whether it is set then."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
