"""Tells systemd how a role stands: sd_notify(3) on NOTIFY_SOCKET. Without systemd, nothing.

The watchdog's word comes from the event loop itself: a role whose loop hangs is restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping


def tell(state: str) -> None:
    """state: "READY=1", "STOPPING=1", "WATCHDOG=1". Never waits, never fails."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # abstract namespace
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.setblocking(False)
        sock.connect(address)
        sock.send(state.encode())


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """What a child gets: it must not speak for its parent."""
    told = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
    return {name: value for name, value in environment.items() if name not in told}


def ready() -> None:
    tell("READY=1")


async def alive(stop: asyncio.Event) -> None:
    """Feeds the watchdog, where the unit has one, until `stop`; then tells that the role stops."""
    every_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 / 3
    while not stop.is_set():
        try:
            async with asyncio.timeout(every_s or None):
                await stop.wait()
        except TimeoutError:
            tell("WATCHDOG=1")
    tell("STOPPING=1")
