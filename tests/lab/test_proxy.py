"""The bad network: it delays, cuts, loses and reorders, and is clear otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest

from tests.lab.proxy import TcpProxy, UdpProxy


@contextlib.asynccontextmanager
async def echo_server() -> AsyncIterator[tuple[str, int]]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield host, port


async def test_tcp_bytes_pass_late_and_in_order_and_the_end_passes_too() -> None:
    async with echo_server() as target, TcpProxy(target) as proxy:
        proxy.weather.delay_s = 0.05
        reader, writer = await asyncio.open_connection(*proxy.address)
        started = time.monotonic()
        text = b"".join(b"%05d " % number for number in range(20000))
        writer.write(text)
        writer.write_eof()
        assert await reader.read(-1) == text
        assert time.monotonic() - started >= 0.1  # there and back
        writer.close()


async def test_a_tcp_cut_holds_bytes_until_it_is_healed() -> None:
    async with echo_server() as target, TcpProxy(target) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        proxy.weather.cut = True
        writer.write(b"late")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(4), 0.2)
        proxy.weather.cut = False
        assert await asyncio.wait_for(reader.readexactly(4), 2) == b"late"
        writer.close()


async def test_drop_breaks_both_sides() -> None:
    async with echo_server() as target, TcpProxy(target) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        writer.write(b"x")
        await reader.readexactly(1)
        proxy.drop()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(1), 2) == b""
        writer.close()


class Collector(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.got.append(data)
        assert self.transport is not None
        self.transport.sendto(b"re " + data, addr)


@contextlib.asynccontextmanager
async def collector() -> AsyncIterator[tuple[Collector, tuple[str, int]]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        Collector, local_addr=("127.0.0.1", 0)
    )
    try:
        yield protocol, transport.get_extra_info("sockname")
    finally:
        transport.close()


async def exchange(address: tuple[str, int], count: int, wait_s: float) -> list[bytes]:
    """Sends `count` numbered packets, 2 ms apart, and returns the answers in order of arrival."""
    loop = asyncio.get_running_loop()
    answers: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(address)
        for number in range(count):
            client.send(b"%d" % number)
            await asyncio.sleep(0.002)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while len(answers) < count:
                    answers.append(await loop.sock_recv(client, 100))
    return answers


async def test_udp_passes_both_ways_in_clear_weather() -> None:
    async with collector() as (far, target), UdpProxy(target) as proxy:
        answers = await exchange(proxy.address, 20, 2)
        assert answers == [b"re %d" % number for number in range(20)]
        assert len(far.got) == 20


async def test_udp_loss_cut_and_reordering() -> None:
    async with collector() as (far, target), UdpProxy(target) as proxy:
        proxy.weather.loss = 0.5
        assert 5 < len(await exchange(proxy.address, 100, 0.2)) < 60  # both ways lose: a quarter
        proxy.weather.loss = 0.0
        proxy.weather.cut = True
        far.got.clear()
        assert await exchange(proxy.address, 5, 0.1) == []
        assert far.got == []
        proxy.weather.cut = False
        proxy.weather.reorder = 0.3
        await exchange(proxy.address, 50, 2)
        numbers = [int(data) for data in far.got]
        assert sorted(numbers) == list(range(50))
        assert numbers != sorted(numbers)
