"""A cancellation is never lost, at whichever step of another end it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from controller.errors import LinkLost
from controller.tasks import is_set, together

#: more turns of the loop than the longest of the ends below takes
TURNS = 12


async def _fails(gate: asyncio.Event) -> None:
    await gate.wait()
    raise LinkLost("gone")


async def _lasts() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def _for_ever(once: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """As a worker does: whatever its link ends with, it begins anew."""
    while True:
        try:
            await once()
        except LinkLost:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_cancellation_while_a_failure_takes_the_others_down_counts(turns: int) -> None:
    gate = asyncio.Event()
    task = asyncio.create_task(_for_ever(lambda: together(_fails(gate), _lasts(), _lasts())))
    await asyncio.sleep(0.01)
    gate.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_cancellation_that_meets_the_event_counts(turns: int) -> None:
    event = asyncio.Event()

    async def once() -> None:
        await is_set(event, 60)
        event.clear()

    task = asyncio.create_task(_for_ever(once))
    await asyncio.sleep(0.01)
    asyncio.get_running_loop().call_soon(event.set)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()


async def test_the_first_failure_is_told_and_nothing_goes_on() -> None:
    ended = []

    async def lasts() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    gate = asyncio.Event()
    gate.set()
    with pytest.raises(LinkLost, match="gone"):
        await together(lasts(), _fails(gate), lasts())
    assert ended == [1, 1]


async def test_one_that_ends_ends_all() -> None:
    event = asyncio.Event()
    event.set()
    await together(event.wait(), _lasts())


async def test_the_time_to_wait_ends() -> None:
    event = asyncio.Event()
    assert not await is_set(event, 0.01)
    event.set()
    assert await is_set(event, 0.01)
