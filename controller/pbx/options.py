"""SIP OPTIONS: is a node's signalling alive, whatever its control link says?

Any response counts, a refusal too: it shows that the SIP stack reads and answers. One UDP socket
serves all nodes of a process. RFC 3261, 11: OPTIONS is safe, and answered like an INVITE would be.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time

_CALL_ID = re.compile(rb"^(?:Call-ID|i)[ \t]*:[ \t]*pbxctl-([0-9a-f]{16})-\d+\r?$", re.I | re.M)
_RESPONSE_MAX = 8192


class OptionsProbe(asyncio.DatagramProtocol):
    """Asks and listens. `silence_s(key)` tells since when a node has not answered.

    An answer counts only with the secret of that node's Call-ID, so nobody else can vouch for it.
    """

    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None
        self._answered: dict[str, float] = {}
        self._key_of: dict[bytes, str] = {}
        self._secret_of: dict[str, str] = {}
        self._serial = 0

    async def open(self, local_host: str = "0.0.0.0") -> None:  # noqa: S104 - replies only
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(local_host, 0)
        )

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def ask(self, key: str, host: str, port: int) -> None:
        """Sends one OPTIONS. The first one starts the node's clock of silence."""
        if self._transport is None or self._transport.is_closing():
            return
        if key not in self._secret_of:
            self._secret_of[key] = secrets.token_hex(8)
            self._key_of[self._secret_of[key].encode()] = key
            self._answered[key] = time.monotonic()
        self._serial += 1
        self._transport.sendto(self._request(key, host, port), (host, port))

    def forget(self, key: str) -> None:
        self._answered.pop(key, None)
        if secret := self._secret_of.pop(key, None):
            self._key_of.pop(secret.encode(), None)

    def silence_s(self, key: str) -> float:
        since = self._answered.get(key)
        return 0.0 if since is None else time.monotonic() - since

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not data.startswith(b"SIP/2.0 ") or len(data) > _RESPONSE_MAX:
            return
        match = _CALL_ID.search(data)
        key = self._key_of.get(match[1].lower()) if match else None
        if key is not None:
            self._answered[key] = time.monotonic()

    def error_received(self, exc: Exception) -> None:
        """A port that is closed answers by ICMP; silence says the same, so nothing to do."""

    def _request(self, key: str, host: str, port: int) -> bytes:
        assert self._transport is not None  # noqa: S101 - `ask` checked it
        local_port = self._transport.get_extra_info("sockname")[1]
        target = f"[{host}]" if ":" in host else host
        # rport (RFC 3581): the answer comes back to where the packet came from.
        return (
            f"OPTIONS sip:{target}:{port} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 0.0.0.0:{local_port};rport;branch=z9hG4bK{secrets.token_hex(8)}\r\n"
            f"Max-Forwards: 1\r\n"
            f"From: <sip:pbxctl@pbxctl.invalid>;tag={secrets.token_hex(4)}\r\n"
            f"To: <sip:{target}:{port}>\r\n"
            f"Call-ID: pbxctl-{self._secret_of[key]}-{self._serial}\r\n"
            f"CSeq: {self._serial % 2**31} OPTIONS\r\n"
            f"Contact: <sip:pbxctl@0.0.0.0:{local_port}>\r\n"
            f"Content-Length: 0\r\n\r\n"
        ).encode()
