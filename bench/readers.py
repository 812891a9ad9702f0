"""One reader of an event stream, in a process of its own: python -m bench.readers KIND HOST PORT UNTIL

KIND: esl, ami (our drivers, up to the NodeEvents that a worker takes), greenswitch, panoramisk (the
stock libraries, up to a handler that looks at two headers). Prints "ready" once it is logged in, and
after UNTIL events one JSON line: events, wall_s and cpu_s from the first byte sent to it (a line on
stdin) to the last event.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable

STALL_S = 8.0


def _ready() -> tuple[float, float]:
    """Tells that the stream may begin; the clocks at which it does."""
    print("ready", flush=True)
    sys.stdin.readline()
    return time.perf_counter(), time.process_time()


def _done(events: int, wall_s: float, cpu_s: float) -> None:
    print(json.dumps({"events": events, "wall_s": wall_s, "cpu_s": cpu_s}), flush=True)


async def ours(kind: str, host: str, port: int, until: int) -> None:
    from controller.pbx.asterisk import AsteriskDriver
    from controller.pbx.base import Driver
    from controller.pbx.freeswitch import FreeSwitchDriver
    from controller.pbx.hub import GreenHub

    hub = GreenHub()
    hub.start()
    driver: Driver
    if kind == "esl":
        driver = FreeSwitchDriver(hub, host, port, "secret", queue_cap=until)
    else:
        driver = AsteriskDriver(host, port, "pbxctl", "secret")
    await driver.connect()
    calls = 0
    wall_s, cpu_s = _ready()
    last_wall_s, last_cpu_s = wall_s, cpu_s
    batches = driver.watch()
    while calls < until:
        try:
            batch = await asyncio.wait_for(anext(batches), STALL_S)
        except TimeoutError:
            break
        # A heartbeat or load sample is none of the stream's.
        calls += sum(type(event).__name__.startswith("Call") for event in batch)
        last_wall_s, last_cpu_s = time.perf_counter(), time.process_time()
    _done(calls, last_wall_s - wall_s, last_cpu_s - cpu_s)
    await driver.close()
    hub.stop()


def greenswitch(host: str, port: int, until: int) -> None:
    import gevent
    from greenswitch import InboundESL

    link = InboundESL(host, port, "secret")
    link.connect()
    link.send("event plain ALL")
    last = _counted(lambda take: link.register_handle("*", lambda e: take(e.headers)), "Unique-ID")
    wall_s, cpu_s = _ready()
    _wait(last, until, lambda: gevent.sleep(0.02))
    _done(int(last[0]), last[1] - wall_s, last[2] - cpu_s)


async def panoramisk(host: str, port: int, until: int) -> None:
    from panoramisk import Manager

    link = Manager(host=host, port=port, username="pbxctl", secret="secret", ping_delay=600)
    await link.connect()
    while not link.authenticated:
        await asyncio.sleep(0.01)
    last = _counted(lambda take: link.register_event("*", lambda _, e: take(e)), "Uniqueid")
    wall_s, cpu_s = _ready()
    stalled = time.perf_counter() + STALL_S
    while last[0] < until and time.perf_counter() < stalled + last[1] - wall_s:
        await asyncio.sleep(0.02)
    _done(int(last[0]), last[1] - wall_s, last[2] - cpu_s)
    link.close()


def _counted(register: Callable[[Callable[[dict[str, str]], None]], object], key: str) -> list[float]:
    """Registers a handler; events so far, and both clocks at the last one."""
    last = [0.0, time.perf_counter(), time.process_time()]

    def take(headers: dict[str, str]) -> None:
        if headers.get(key):
            last[0] += 1
            if last[0] % 100 == 0:
                last[1], last[2] = time.perf_counter(), time.process_time()

    register(take)
    return last


def _wait(last: list[float], until: int, pause: Callable[[], None]) -> None:
    seen, since = 0.0, time.perf_counter()
    while last[0] < until and time.perf_counter() - since < STALL_S:
        pause()
        if last[0] > seen:
            seen, since = last[0], time.perf_counter()


def main() -> None:
    kind, host, port, until = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if kind == "greenswitch":
        greenswitch(host, port, until)
    elif kind == "panoramisk":
        asyncio.run(panoramisk(host, port, until))
    else:
        asyncio.run(ours(kind, host, port, until))


if __name__ == "__main__":
    main()
