"""One reader of an event stream, in a process of its own.

python -m bench.readers KIND HOST PORT UNTIL

KIND: esl-link (our link, up to a handler that looks at one header), greenswitch, panoramisk (the
stock libraries, up to the same), esl, ami (our drivers, up to the NodeEvents that a worker takes).
Prints "ready" once it is logged in, and after UNTIL events one JSON line: events, wall_s and cpu_s
from the line on stdin that starts it to the last event.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

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


def green(kind: str, host: str, port: int, until: int) -> None:
    import gevent
    from greenswitch import InboundESL

    from controller.pbx.esl import EslLink

    link: InboundESL | EslLink
    if kind == "esl-link":
        link = EslLink(host, port, "secret")
        last = _counted(lambda take: link.register_handle("*", take), lambda e: e.get("Unique-ID"))
    else:
        link = InboundESL(host, port, "secret")
        last = _counted(
            lambda take: link.register_handle("*", take), lambda e: e.headers.get("Unique-ID")
        )
    link.connect()
    link.send("event plain ALL")
    wall_s, cpu_s = _ready()
    seen, since = 0.0, wall_s
    while last[0] < until and time.perf_counter() - since < STALL_S:
        gevent.sleep(0.02)
        if last[0] > seen:
            seen, since = last[0], time.perf_counter()
    _done(int(last[0]), last[1] - wall_s, last[2] - cpu_s)


async def panoramisk(host: str, port: int, until: int) -> None:
    from panoramisk import Manager

    link = Manager(host=host, port=port, username="pbxctl", secret="secret", ping_delay=600)
    await link.connect()
    while not link.authenticated:
        await asyncio.sleep(0.01)
    last = _counted(lambda take: link.register_event("*", lambda _, e: take(e)), _uniqueid)
    wall_s, cpu_s = _ready()
    seen, since = 0.0, wall_s
    while last[0] < until and time.perf_counter() - since < STALL_S:
        await asyncio.sleep(0.02)
        if last[0] > seen:
            seen, since = last[0], time.perf_counter()
    _done(int(last[0]), last[1] - wall_s, last[2] - cpu_s)
    link.close()


def _uniqueid(event: Any) -> str | None:
    found: str | None = event.get("Uniqueid")
    return found


def _counted(
    register: Callable[[Callable[[Any], None]], object], header: Callable[[Any], str | None]
) -> list[float]:
    """Registers a handler; events so far that have the header, and both clocks at the last one."""
    last = [0.0, time.perf_counter(), time.process_time()]

    def take(event: Any) -> None:
        if header(event):
            last[0] += 1
            if last[0] % 100 == 0:
                last[1], last[2] = time.perf_counter(), time.process_time()

    register(take)
    return last


def main() -> None:
    kind, host, port, until = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if kind in ("greenswitch", "esl-link"):
        green(kind, host, port, until)
    elif kind == "panoramisk":
        asyncio.run(panoramisk(host, port, until))
    else:
        asyncio.run(ours(kind, host, port, until))


if __name__ == "__main__":
    main()
