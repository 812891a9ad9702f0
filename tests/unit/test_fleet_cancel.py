"""A cancelled task that speaks to Redis ends, at whatever moment the cancellation comes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import pytest
import redis.asyncio as redis

from controller.fleet.functions import Fleet
from tests.redis_server import RedisServer

ROUNDS = 500

ASKS: dict[str, Callable[[Fleet], Awaitable[object]]] = {
    "nodes": lambda fleet: fleet.nodes(),
    "read_hash": lambda fleet: fleet.read_hash("x"),
    "write_hash": lambda fleet: fleet.write_hash("x", "y", b"z"),
    "presence": lambda fleet: fleet.presence(),
    "run_id": lambda fleet: fleet.run_id(),
    "cancel": lambda fleet: fleet.cancel("n", "c"),
    "result": lambda fleet: fleet.result("c", 0),
}


@pytest.mark.parametrize("ask_once", ASKS.values(), ids=ASKS.keys())
async def test_no_cancellation_is_lost(ask_once: Callable[[Fleet], Awaitable[object]]) -> None:
    with RedisServer() as server:
        # A timeout makes redis-py send under wait_for, as fleet.functions.connect does.
        fleet = Fleet(redis.Redis.from_url(server.url, socket_timeout=1), "test")
        await fleet.load()

        async def ask() -> None:
            while True:
                await ask_once(fleet)

        for _ in range(ROUNDS):
            task = asyncio.create_task(ask())
            until_s = time.monotonic() + random.random() * 0.002
            while time.monotonic() < until_s:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=5)
            assert task.cancelled()
        await fleet.close()


async def test_a_cancelled_task_can_still_clean_up() -> None:
    with RedisServer() as server:
        fleet = Fleet(redis.Redis.from_url(server.url, socket_timeout=1), "test")
        cleaned = False

        async def work() -> None:
            nonlocal cleaned
            try:
                await asyncio.sleep(60)
            finally:
                assert await fleet.nodes() == []
                cleaned = True

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
        assert cleaned
        await fleet.close()
