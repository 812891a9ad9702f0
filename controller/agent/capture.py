"""Packets of one media port of this host, by a packet socket (packet(7)); needs CAP_NET_RAW.

A filter in the kernel (classic BPF) lets UDP from or to that port pass, and nothing else comes into
this process. The socket lives for a few seconds; no payload is kept, logged or sent on.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from dataclasses import dataclass, field

SO_ATTACH_FILTER = 26
ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
SNAP_BYTES = 2048
_UDP = 17

# classic BPF: bpf(4) of the BSDs, linux/filter.h. (code, jump if true, jump if false, k)
_LD_B, _LD_H, _LDX_IP_LENGTH, _LD_H_X = 0x30, 0x28, 0xB1, 0x48
_AND, _JEQ, _JSET, _RET = 0x54, 0x15, 0x45, 0x06


@dataclass
class Captured:
    """UDP payloads. sent: by the port; received: at it."""

    sent: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)


class CannotCapture(Exception):
    """No packet socket: not root, no CAP_NET_RAW, no such thing on this system."""


def port_filter(port: int) -> list[tuple[int, int, int, int]]:
    """Passes unfragmented IPv4 and plain IPv6 packets of UDP from or to `port`."""
    return [
        (_LD_B, 0, 0, 0),  # version and header length; a SOCK_DGRAM socket shows the IP packet
        (_AND, 0, 0, 0xF0),
        (_JEQ, 0, 9, 0x40),  # else → 12
        (_LD_B, 0, 0, 9),
        (_JEQ, 0, 14, _UDP),
        (_LD_H, 0, 0, 6),
        (_JSET, 12, 0, 0x1FFF),  # a later fragment has no ports
        (_LDX_IP_LENGTH, 0, 0, 0),
        (_LD_H_X, 0, 0, 0),
        (_JEQ, 8, 0, port),
        (_LD_H_X, 0, 0, 2),
        (_JEQ, 6, 7, port),
        (_LD_B, 0, 0, 6),  # 12: IPv6
        (_JEQ, 0, 5, _UDP),
        (_LD_H, 0, 0, 40),
        (_JEQ, 2, 0, port),
        (_LD_H, 0, 0, 42),
        (_JEQ, 0, 1, port),
        (_RET, 0, 0, SNAP_BYTES),  # 18
        (_RET, 0, 0, 0),
    ]


async def capture(port: int, packets: int, within_s: float) -> Captured:
    """Up to `packets` of each direction, or what came within the time. Raises CannotCapture."""
    link = _open(port)
    loop = asyncio.get_running_loop()
    captured = Captured()
    try:
        async with asyncio.timeout(within_s):
            while min(len(captured.sent), len(captured.received)) < packets:
                await _readable(loop, link)
                while True:
                    try:
                        datagram, (interface, _, direction, *_rest) = link.recvfrom(SNAP_BYTES)
                    except BlockingIOError:
                        break
                    # loopback shows each packet twice: on its way out and in
                    if not (interface == "lo" and direction == PACKET_OUTGOING):
                        _sort(datagram, port, captured, packets)
    except TimeoutError:
        pass
    except OSError as error:
        raise CannotCapture(str(error)) from error
    finally:
        link.close()
    return captured


def _open(port: int) -> socket.socket:
    try:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        link = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
    except (OSError, AttributeError) as error:
        raise CannotCapture(str(error)) from error
    try:
        code = b"".join(struct.pack("HBBI", *line) for line in port_filter(port))
        program = ctypes.create_string_buffer(code)
        head = struct.pack("HL", len(code) // 8, ctypes.addressof(program))
        link.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)
        while True:  # what came in before the filter stood is not ours to see
            link.recv(1)
    except BlockingIOError:
        return link
    except OSError as error:
        link.close()
        raise CannotCapture(str(error)) from error


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _readable(loop: asyncio.AbstractEventLoop, link: socket.socket) -> None:
    ready = loop.create_future()
    loop.add_reader(link, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(link)


def _sort(packet: bytes, port: int, captured: Captured, most: int) -> None:
    start = 40 if packet[0] >> 4 == 6 else 4 * (packet[0] & 0x0F)
    if len(packet) < start + 8:
        return
    source, _, length = struct.unpack_from("!HHH", packet, start)
    side: list[bytes] = captured.sent if source == port else captured.received
    if len(side) < most:
        side.append(packet[start + 8 : start + length])
