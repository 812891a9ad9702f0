"""A REGISTER by hand over TCP or TLS, with digest authentication: wrong, stale and stolen ones."""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    code: int
    text: str

    def challenge(self) -> tuple[str, str]:
        """Realm and nonce of the MD5 challenge."""
        for line in re.findall(r"^WWW-Authenticate: Digest (.*)\r$", self.text, re.M | re.I):
            if "SHA" not in line.upper():
                realm, nonce = (re.search(f'{k}="([^"]*)"', line) for k in ("realm", "nonce"))
                if realm and nonce:
                    return realm[1], nonce[1]
        raise AssertionError(f"no MD5 challenge in {self.text}")


class TappedTls:
    """A client's TLS over `link`. wire: all that it sent there, as a listener would keep it."""

    def __init__(self, link: socket.socket, tls: ssl.SSLContext, host: str) -> None:
        self._link = link
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._in, self._out, server_hostname=host)
        self.wire = bytearray()
        self.getsockname = link.getsockname
        self.close = link.close
        self._drive(self._tls.do_handshake)

    def sendall(self, data: bytes) -> None:
        self._drive(partial(self._tls.write, data))

    def recv(self, size: int) -> bytes:
        return self._drive(partial(self._tls.read, size))

    def _drive(self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._send()
                if data := self._link.recv(65536):
                    self._in.write(data)
                else:
                    self._in.write_eof()
            finally:
                self._send()

    def _send(self) -> None:
        data = self._out.read()
        self.wire += data
        self._link.sendall(data)


class Registrar:
    """One connection to a node's registrar, from an address of its own."""

    def __init__(self, node: str, source: str, tls: ssl.SSLContext | None = None) -> None:
        host, port = node.rsplit(":", 1)
        self.host = host
        link = socket.create_connection((host, int(port)), 3, (source, 0))
        self._link = TappedTls(link, tls, host) if tls else link
        self._transport = "TLS" if tls else "TCP"
        self._here = "{}:{}".format(*self._link.getsockname())
        self._call = secrets.token_hex(8)
        self._count = 0

    def close(self) -> None:
        self._link.close()

    @property
    def wire(self) -> bytes:
        """What a listener on the wire has of it so far. Of TLS alone."""
        assert isinstance(self._link, TappedTls)
        return bytes(self._link.wire)

    def register(
        self, name: str, authorization: str = "", *, expires_s: int = 60, evil: str = ""
    ) -> Answer:
        """evil: behind the contact's own parameters."""
        self._count += 1
        return self.send(
            f"REGISTER sip:{self.host} SIP/2.0\r\n"
            f"Via: SIP/2.0/{self._transport} {self._here};"
            f"branch=z9hG4bK{secrets.token_hex(6)};rport\r\n"
            f"From: <sip:{name}@{self.host}>;tag={self._call}\r\nTo: <sip:{name}@{self.host}>\r\n"
            f"Call-ID: {self._call}\r\nCSeq: {self._count} REGISTER\r\n"
            f"Contact: <sip:{name}@{self._here};transport={self._transport.lower()}{evil}>\r\n"
            f"User-Agent: contract\r\n"
            f"Expires: {expires_s}\r\n"
            f"Max-Forwards: 70\r\n{authorization}Content-Length: 0\r\n\r\n"
        )

    def send(self, request: str) -> Answer:
        """Raises TimeoutError when nothing comes."""
        self.sent = request
        self._link.sendall(request.encode())
        text = ""
        while not (done := re.search(r"^SIP/2\.0 ([2-6]\d\d) .*?\r\n\r\n", text, re.M | re.S)):
            data = self._link.recv(65536)
            if not data:
                raise ConnectionResetError("closed")
            text += data.decode(errors="replace")
        return Answer(int(done[1]), done[0])

    def authorization(self, name: str, password: str, answer: Answer) -> str:
        """The header that answers a challenge (RFC 2617, qop=auth)."""
        realm, nonce = answer.challenge()
        uri, cnonce, count = f"sip:{self.host}", secrets.token_hex(4), "00000001"
        ha1 = _md5(f"{name}:{realm}:{password}")
        ha2 = _md5(f"REGISTER:{uri}")
        response = _md5(f"{ha1}:{nonce}:{count}:{cnonce}:auth:{ha2}")
        return (
            f'Authorization: Digest username="{name}", realm="{realm}", nonce="{nonce}", '
            f'uri="{uri}", response="{response}", algorithm=MD5, cnonce="{cnonce}", '
            f"nc={count}, qop=auth\r\n"
        )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
