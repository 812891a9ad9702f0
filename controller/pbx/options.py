"""SIP OPTIONS: is a node's signalling alive, whatever its control link says?

Any response counts, a refusal too: it shows that the SIP stack reads and answers. RFC 3261, 11:
OPTIONS is safe, and answered like an INVITE would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Callable

from controller.config import Config
from controller.pki import contexts
from controller.pki.contexts import Identity
from controller.pki.wanted import PROBE

_CALL_ID = re.compile(rb"^(?:Call-ID|i)[ \t]*:[ \t]*pbxctl-([0-9a-f]{16})-\d+\r?$", re.I | re.M)
_RESPONSE_MAX = 8192
_CONNECT_S = 1.5
_UNSENT_MAX = 65_536
#: a connection that brings no answer for so long is made anew: its node may have restarted
_LINE_SILENT_S = 3.0


def probe_of(config: Config) -> OptionsProbe:
    """As the config's signalling wants it. Raises ConfigError when the certificate is missing."""
    if config.security.signalling == "plain":
        return OptionsProbe()
    return OptionsProbe(contexts.client(config, PROBE, authority="sip"))


class OptionsProbe:
    """Asks and listens. `silence_s(key)` tells since when a node has not answered.

    tls: with which nodes are asked over TLS, one connection kept for each; without it over UDP.
    An answer counts only with the secret of that node's Call-ID, so nobody else can vouch for it.
    """

    def __init__(self, tls: Identity | None = None) -> None:
        self._tls = tls
        self._sockets: dict[bool, asyncio.DatagramTransport] = {}  # by whether it is of IPv6
        self._lines: dict[str, _Line] = {}
        self._answered: dict[str, float] = {}
        self._key_of: dict[bytes, str] = {}
        self._secret_of: dict[str, str] = {}
        self._serial = 0

    async def open(self) -> None:
        if self._tls is None:
            await self._listen("0.0.0.0")  # noqa: S104 - replies only
            with contextlib.suppress(OSError):  # a host without IPv6 has no such nodes
                await self._listen("::")

    async def _listen(self, local_host: str) -> None:
        loop = asyncio.get_running_loop()
        self._sockets[":" in local_host], _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self.take), local_addr=(local_host, 0)
        )

    def close(self) -> None:
        for datagrams in self._sockets.values():
            datagrams.close()
        for line in self._lines.values():
            line.close()

    def ask(self, key: str, host: str, port: int) -> None:
        """Sends one OPTIONS. The first one starts the node's clock of silence."""
        if key not in self._secret_of:
            self._secret_of[key] = secrets.token_hex(8)
            self._key_of[self._secret_of[key].encode()] = key
            self._answered[key] = time.monotonic()
        self._serial += 1
        if self._tls is not None:
            self._ask_by_line(key, host, port, self._tls)
        elif (datagrams := self._sockets.get(":" in host)) and not datagrams.is_closing():
            local_port = datagrams.get_extra_info("sockname")[1]
            request = _request(host, port, "UDP", local_port, self._call_id(key), self._serial)
            datagrams.sendto(request, (host, port))

    def _ask_by_line(self, key: str, host: str, port: int, tls: Identity) -> None:
        line = self._lines.get(key)
        if line is None or line.ended or self.silence_s(key) > _LINE_SILENT_S < line.age_s():
            if line:
                line.close()
            line = self._lines[key] = _Line(host, port, tls, self.take)
        request = _request(host, port, "TLS", line.local_port, self._call_id(key), self._serial)
        line.send(request)

    def forget(self, key: str) -> None:
        self._answered.pop(key, None)
        if line := self._lines.pop(key, None):
            line.close()
        if secret := self._secret_of.pop(key, None):
            self._key_of.pop(secret.encode(), None)

    def silence_s(self, key: str) -> float:
        since = self._answered.get(key)
        return 0.0 if since is None else time.monotonic() - since

    def take(self, response: bytes) -> None:
        """Whatever came in; hostile bytes."""
        if not response.startswith(b"SIP/2.0 ") or len(response) > _RESPONSE_MAX:
            return
        match = _CALL_ID.search(response)
        key = self._key_of.get(match[1].lower()) if match else None
        if key is not None:
            self._answered[key] = time.monotonic()

    def _call_id(self, key: str) -> str:
        return f"pbxctl-{self._secret_of[key]}-{self._serial}"


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._take(data)

    def error_received(self, exc: Exception) -> None:
        """A port that is closed answers by ICMP; silence says the same, so nothing to do."""


class _Line(asyncio.Protocol):
    """One TLS connection to one node. What was asked before it stands goes out once it does."""

    def __init__(self, host: str, port: int, tls: Identity, take: Callable[[bytes], None]) -> None:
        self.ended = False
        self.local_port = port
        self._take = take
        self._began_s = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self._waits = b""
        self._buffer = b""
        self._task = asyncio.create_task(self._connect(host, port, tls))

    def age_s(self) -> float:
        return time.monotonic() - self._began_s

    async def _connect(self, host: str, port: int, tls: Identity) -> None:
        try:
            tls.refresh()
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: self, host, port, ssl=tls.context, server_hostname=host
                )
        except (OSError, TimeoutError):  # ssl.SSLError is one; silence says it
            self.ended = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.local_port = transport.get_extra_info("sockname")[1]
        self.send(b"")

    def send(self, request: bytes) -> None:
        """Keeps only the last request while there is no connection."""
        if self._transport is None:
            self._waits = request or self._waits
        elif self._transport.get_write_buffer_size() < _UNSENT_MAX:
            self._transport.write(self._waits + request)
            self._waits = b""

    def data_received(self, data: bytes) -> None:
        """Cuts at the end of headers; a body, which we have no use for, ends up before the next."""
        *heads, self._buffer = (self._buffer + data).split(b"\r\n\r\n")
        for head in heads:
            self._take(head[max(0, head.find(b"SIP/2.0 ")) :])
        if len(self._buffer) > _RESPONSE_MAX:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True
        self._task.cancel()
        if self._transport:
            self._transport.abort()


def _request(
    host: str, port: int, transport: str, local_port: int, call_id: str, serial: int
) -> bytes:
    target = f"[{host}]" if ":" in host else host
    branch = f"z9hG4bK{secrets.token_hex(8)}"
    # rport (RFC 3581): the answer comes back to where the packet came from.
    return (
        f"OPTIONS sip:{target}:{port} SIP/2.0\r\n"
        f"Via: SIP/2.0/{transport} 0.0.0.0:{local_port};rport;branch={branch}\r\n"
        f"Max-Forwards: 1\r\n"
        f"From: <sip:pbxctl@pbxctl.invalid>;tag={secrets.token_hex(4)}\r\n"
        f"To: <sip:{target}:{port}>\r\n"
        f"Call-ID: {call_id}\r\n"
        f"CSeq: {serial % 2**31} OPTIONS\r\n"
        f"Contact: <sip:pbxctl@0.0.0.0:{local_port}>\r\n"
        f"Content-Length: 0\r\n\r\n"
    ).encode()
