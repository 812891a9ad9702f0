"""A bad network between two programs: delay, loss, reordering and cuts, for TCP and UDP.

Runs in the test's own asyncio loop. Stands in where a kernel has no `tc netem`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

Address = tuple[str, int]
CHUNK = 65536


@dataclass
class Weather:
    """Change it at any time; it holds for what arrives from then on.

    delay_s: each way. cut: TCP bytes stand still, UDP packets are lost; nobody is told.
    loss, reorder: share (0 to 1) of UDP packets lost, or held back by reorder_s more, so that
    later ones overtake them. TCP is a stream and knows neither.
    """

    delay_s: float = 0.0
    cut: bool = False
    loss: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.05
    chance: random.Random = field(default_factory=lambda: random.Random(1))


class TcpProxy:
    """Listens on host:port (0: any) and carries each connection to `target`.

    Bytes that arrive during a cut go on after it. `drop` breaks all connections with a reset.
    """

    def __init__(self, target: Address, host: str = "127.0.0.1", port: int = 0) -> None:
        self.weather = Weather()
        self._target = target
        self._listen = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> Address:
        if self._server is None:
            raise RuntimeError("the proxy is not open")
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, *self._listen)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()

    def drop(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(far_writer)
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        except OSError:
            pass  # one side broke; the other must see it too
        finally:
            for end in (writer, far_writer):
                end.transport.abort()
                self._open.discard(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one direction in order; several chunks may be under way at once."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

        async def arrive() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - loop.time())
                while self.weather.cut:
                    await asyncio.sleep(0.005)
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

        arriving = asyncio.create_task(arrive())
        try:
            data = b"first"
            while data:
                data = await reader.read(CHUNK)
                await under_way.put((loop.time() + self.weather.delay_s, data))
            await arriving
        finally:
            arriving.cancel()


class UdpProxy:
    """Listens on host:port (0: any) and carries datagrams to `target` and back.

    Each client gets a port of its own towards the target, so answers find their way back.
    """

    def __init__(self, target: Address, host: str = "127.0.0.1", port: int = 0) -> None:
        self.weather = Weather()
        self._target = target
        self._near = _udp_socket()
        self._near.bind((host, port))
        self._far: dict[Address, socket.socket] = {}

    @property
    def address(self) -> Address:
        host, port = self._near.getsockname()
        return host, port

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._near, self._from_clients)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        for end in [self._near, *self._far.values()]:
            loop.remove_reader(end)
            end.close()

    def _from_clients(self) -> None:
        for data, client in _arrived(self._near):
            far = self._far.get(client)
            if far is None:
                far = self._far[client] = _udp_socket()
                far.connect(self._target)
                loop = asyncio.get_running_loop()
                loop.add_reader(far, self._from_target, far, client)
            self._carry(data, far, self._target)

    def _from_target(self, far: socket.socket, client: Address) -> None:
        for data, _ in _arrived(far):
            self._carry(data, self._near, client)

    def _carry(self, data: bytes, out: socket.socket, to: Address) -> None:
        weather = self.weather
        if weather.cut or weather.chance.random() < weather.loss:
            return
        delay_s = weather.delay_s
        if weather.chance.random() < weather.reorder:
            delay_s += weather.reorder_s
        asyncio.get_running_loop().call_later(delay_s, _send, out, data, to)


def _udp_socket() -> socket.socket:
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.setblocking(False)
    return end


def _arrived(end: socket.socket) -> Iterator[tuple[bytes, Address]]:
    while True:
        try:
            yield end.recvfrom(CHUNK)
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            continue  # an ICMP answer to something sent before: the target's port was closed


def _send(out: socket.socket, data: bytes, to: Address) -> None:
    with contextlib.suppress(OSError):  # closed, full or refused: UDP loses packets
        if out.fileno() >= 0:
            out.sendto(data, to)
