"""The packet socket on loopback: what passes the kernel's filter, and what does not."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from controller.agent.capture import CannotCapture, capture

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a packet socket needs root")


@pytest.mark.parametrize("host", ["127.0.18.1", "::1"])
async def test_only_the_port_is_seen_each_packet_once(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_DGRAM) as ours,
        socket.socket(family, socket.SOCK_DGRAM) as peer,
        socket.socket(family, socket.SOCK_DGRAM) as other,
    ):
        for each in (ours, peer, other):
            each.bind((host, 0))
        port = ours.getsockname()[1]
        task = asyncio.create_task(capture(port, 3, 3))
        await asyncio.sleep(0.2)
        for n in range(3):
            peer.sendto(b"to %d" % n, ours.getsockname())
            ours.sendto(b"from %d" % n, peer.getsockname())
            other.sendto(b"elsewhere", peer.getsockname())
        seen = await task
    assert seen.received == [b"to 0", b"to 1", b"to 2"]
    assert seen.sent == [b"from 0", b"from 1", b"from 2"]


async def test_silence_ends_with_nothing() -> None:
    seen = await capture(9, 3, 0.2)
    assert not seen.sent and not seen.received


async def test_without_the_right_it_says_so() -> None:
    """In a process of its own that has given up root."""
    code = (
        "import asyncio, os, sys\n"
        "from controller.agent.capture import CannotCapture, capture\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: asyncio.run(capture(9, 1, 1))\n"
        "except CannotCapture: sys.exit(42)\n"
    )
    import sys

    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 42
    assert issubclass(CannotCapture, Exception)
