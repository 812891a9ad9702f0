"""SIP over TLS by hand, for what no honest phone or trunk sends."""

from __future__ import annotations

import re
import secrets
import socket
import ssl
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import serialization

from controller.pki.authority import Pair

KEY = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz"  # RFC 4568, 9.1: 30 octets
FINGERPRINT = "setup:actpass\nfingerprint:sha-256 " + ":".join(["A5"] * 32)
GOOD_SDP = ("RTP/SAVP", f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")


def context(ca: Path, pair: Pair | None, folder: Path) -> ssl.SSLContext:
    """Of whoever shows `pair` (None: shows nothing); believes the servers of `ca`."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(ca)
    if pair:
        path = folder / f"{secrets.token_hex(4)}.pem"
        path.write_bytes(pair.key_pem() + pair.certificate_pem())
        made.load_cert_chain(path)
    return made


def final_response(
    sip: str,
    number: str,
    tls: ssl.SSLContext | None,
    *,
    source: str,
    sdp: tuple[str, str] = GOOD_SDP,
    headers: str = "",
) -> int:
    """The status that `invite` gets."""
    return invite(sip, number, tls, source=source, sdp=sdp, headers=headers)[0]


def invite(
    sip: str,
    number: str,
    tls: ssl.SSLContext | None,
    *,
    source: str,
    sdp: tuple[str, str] = GOOD_SDP,
    headers: str = "",
) -> tuple[int, str]:
    """Status and text of the final response to one INVITE; 0 when the far end refuses to talk, by
    TLS or by silence. tls: None for plain TCP. An answered call is left to its timers.
    """
    try:
        with Dialogue(sip, number, tls, source=source) as call:
            return call.invite(sdp, headers)
    except OSError:
        return 0, ""


class Dialogue:
    """One call on a connection of its own. Whatever goes wrong with that is an OSError."""

    def __init__(
        self,
        sip: str,
        number: str,
        tls: ssl.SSLContext | None,
        *,
        source: str,
        timeout_s: float = 4.0,
    ) -> None:
        host, port = sip.rsplit(":", 1)
        link = socket.create_connection((host, int(port)), timeout_s, (source, 0))
        self._link = tls.wrap_socket(link, server_hostname=host) if tls else link
        self._transport = "TLS" if tls else "TCP"
        self._here, self._near = self._link.getsockname()
        self._uri = f"sip:{number}@{sip};transport={self._transport.lower()}"
        self._to = f"<sip:{number}@{sip}>"
        self._tag, self._call = secrets.token_hex(4), secrets.token_hex(8)
        self._routes = ""
        self._count = 0
        self._seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._link.close()

    def invite(self, sdp: tuple[str, str] = GOOD_SDP, headers: str = "") -> tuple[int, str]:
        """Status and text of the final response, 0 when the far end hangs up instead. The second
        one is a re-INVITE.

        sdp: what is offered, media transport and values of a=crypto, one a line; a line of a=setup
        or a=fingerprint stands whole.
        """
        media, crypto = sdp
        self._count += 1
        body = (
            f"v=0\r\no=- 1 {self._count} IN IP4 {self._here}\r\ns=-\r\nc=IN IP4 {self._here}\r\n"
            f"t=0 0\r\nm=audio 40000 {media} 8\r\na=rtpmap:8 PCMA/8000\r\n"
            + "".join(f"a={_attribute(line)}\r\n" for line in crypto.splitlines())
        )
        self._seen = b""
        more = f"{headers}Content-Type: application/sdp\r\n"
        self._send("INVITE", more, body)
        code, text = self._final()
        if code and (to := re.search(r"^To: *([^\r]+)", text, re.M | re.I)):
            self._to = to[1]
        if code == 200 and self._count == 1:
            self._uri = re.findall(r"^Contact:.*?<([^>]+)>", text, re.M | re.I)[0]
            routes = re.findall(r"^Record-Route: *([^\r]+)", text, re.M | re.I)
            self._routes = "".join(f"Route: {route}\r\n" for route in reversed(routes))
        return code, text

    def acknowledge(self) -> None:
        self._send("ACK")

    def ended(self, within_s: float) -> bool:
        """Whether the far end says BYE."""
        deadline_s = time.monotonic() + within_s
        while b"\r\nBYE " not in b"\r\n" + self._seen:
            self._link.settimeout(max(0.01, deadline_s - time.monotonic()))
            try:
                data = self._link.recv(8192)
            except TimeoutError:
                return False
            if not data:
                return True
            self._seen += data
        return True

    def _send(self, method: str, headers: str = "", body: str = "") -> None:
        at = f"{self._here}:{self._near}"
        contact = f"<sip:x@{at};transport={self._transport.lower()}>"
        self._link.sendall(
            (
                f"{method} {self._uri} SIP/2.0\r\n"
                f"Via: SIP/2.0/{self._transport} {at};"
                f"branch=z9hG4bK{secrets.token_hex(8)};rport\r\n"
                f"From: <sip:attacker@{self._here}>;tag={self._tag}\r\nTo: {self._to}\r\n"
                f"Call-ID: {self._call}\r\nMax-Forwards: 70\r\n{self._routes}"
                f"CSeq: {self._count} {method}\r\nContact: {contact}\r\n"
                f"{headers}Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode()
        )

    def _final(self) -> tuple[int, str]:
        while True:
            data = self._link.recv(8192)
            if not data:
                return 0, ""
            self._seen += data
            for found in re.finditer(rb"^SIP/2\.0 ([0-9]{3}) ", self._seen, re.M):
                text = self._seen[found.start() :].decode(errors="replace")
                if int(found[1]) >= 200 and _is_whole(text):
                    return int(found[1]), text


def _attribute(line: str) -> str:
    return line if line.startswith(("setup:", "fingerprint:")) else f"crypto:{line}"


def _is_whole(text: str) -> bool:
    head, end, body = text.partition("\r\n\r\n")
    length = re.search(r"^Content-Length: *([0-9]+)", head, re.M | re.I)
    return bool(end) and len(body) >= int(length[1] if length else 0)


def load_pair(certificate: Path, key: Path) -> Pair:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    private = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return Pair(x509.load_pem_x509_certificate(certificate.read_bytes()), private)
