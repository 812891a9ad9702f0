"""The bridge between asyncio and gevent: docs/adr/0002-one-worker-two-loops.md says why.

Code given to `GreenHub.run` is gevent code and runs in the hub's thread alone. Nothing here, and
nothing that a worker imports, monkey-patches.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import gevent
import gevent.event

from controller.errors import LinkLost
from controller.model import EventsLost, NodeEvent

T = TypeVar("T")


class GreenHub:
    """One gevent hub in one thread, for all FreeSWITCH links of a worker.

    Start it once, before the first link; stop it after the last one is closed.
    """

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="gevent", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Ends the thread; jobs still running are killed. Repeatable."""
        if self._thread.is_alive():
            self._post(self._stopped.set)
            self._thread.join()

    async def run(self, job: Callable[..., T], *args: object) -> T:
        """Runs `job` in a greenlet of its own and waits for it, whatever it returns or raises.

        The job must end by its own deadline: cancelling the waiter does not stop it, because a
        command half sent would break the link for everyone else.
        """
        if not self._thread.is_alive():
            raise LinkLost("the event loop of the FreeSWITCH links is stopped")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def green() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = job(*args)
            except gevent.GreenletExit:
                error = LinkLost("stopped")
            except BaseException as caught:  # carried over to the waiter, whatever it is
                error = caught
            post_to_loop(loop, settle, result, error)

        self._post(lambda: gevent.spawn(green))
        return await done

    def _post(self, job: Callable[[], object]) -> None:
        self._jobs.append(job)  # type: ignore[arg-type]
        self._wake.send()

    def _main(self) -> None:
        hub = gevent.get_hub()
        self._stopped = gevent.event.Event()
        self._wake = hub.loop.async_()
        self._wake.start(self._drain)
        self._ready.set()
        self._stopped.wait()
        self._wake.stop()
        self._wake.close()
        hub.destroy(destroy_loop=True)

    def _drain(self) -> None:
        while self._jobs:
            self._jobs.popleft()()


def post_to_loop(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object
) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return  # the loop is closed: the program is ending and nobody waits any more


class EventQueue:
    """Batches of NodeEvents from the hub's thread to one asyncio reader; bounded.

    Past `cap` events the oldest go, and the next batch starts with one EventsLost that counts
    them. After `end` the reader gets what is left, then the error.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, cap: int = 50_000) -> None:
        self._loop = loop
        self._cap = cap
        self._lock = threading.Lock()
        self._events: deque[NodeEvent] = deque()
        self._lost = 0
        self._error: Exception | None = None
        self._filled = asyncio.Event()
        self._told = False

    def put(self, events: Sequence[NodeEvent]) -> None:
        with self._lock:
            self._events.extend(events)
            while len(self._events) > self._cap:
                self._events.popleft()
                self._lost += 1
        self._tell()

    def end(self, error: Exception) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        self._tell()

    def _tell(self) -> None:
        if not self._told:  # one wake-up for all that comes before the reader has run
            self._told = True
            post_to_loop(self._loop, self._filled.set)

    async def take(self) -> Sequence[NodeEvent]:
        """Everything queued, at least one event. Raises the error given to `end`."""
        while True:
            self._filled.clear()
            self._told = False
            with self._lock:
                batch: list[NodeEvent] = []
                if self._lost:
                    batch.append(EventsLost(self._lost, "the reader was too slow"))
                    self._lost = 0
                batch.extend(self._events)
                self._events.clear()
                error = self._error
            if batch:
                return batch
            if error is not None:
                raise error
            await self._filled.wait()
