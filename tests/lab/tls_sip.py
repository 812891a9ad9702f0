"""SIP over TLS by hand, for what no honest phone or trunk sends."""

from __future__ import annotations

import re
import secrets
import socket
import ssl
from pathlib import Path

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
    timeout_s: float = 4.0,
) -> tuple[int, str]:
    """Status and text of the final response to one INVITE; 0 when the far end refuses to talk, by
    TLS or by silence.

    sdp: what is offered, media transport and values of a=crypto, one a line; a line of a=setup or
    a=fingerprint stands whole. tls: None for plain
    TCP. An answered call is left to its timers.
    """
    host, port = sip.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout_s, (source, 0)) as plain:
            if tls is None:
                return _ask(plain, host, int(port), number, "TCP", sdp, headers)
            with tls.wrap_socket(plain, server_hostname=host) as link:
                return _ask(link, host, int(port), number, "TLS", sdp, headers)
    except OSError:
        return 0, ""


def _ask(
    link: socket.socket,
    host: str,
    port: int,
    number: str,
    transport: str,
    sdp: tuple[str, str],
    headers: str,
) -> tuple[int, str]:
    here, near = link.getsockname()
    media, crypto = sdp
    body = (
        f"v=0\r\no=- 1 1 IN IP4 {here}\r\ns=-\r\nc=IN IP4 {here}\r\nt=0 0\r\n"
        f"m=audio 40000 {media} 8\r\na=rtpmap:8 PCMA/8000\r\n"
        + "".join(f"a={_attribute(line)}\r\n" for line in crypto.splitlines())
    )
    tag, call = secrets.token_hex(4), secrets.token_hex(8)
    top = (
        f"Via: SIP/2.0/{transport} {here}:{near};branch=z9hG4bK{call};rport\r\n"
        f"From: <sip:attacker@{here}>;tag={tag}\r\nTo: <sip:{number}@{host}:{port}{{tag}}>\r\n"
        f"Call-ID: {call}\r\nMax-Forwards: 70\r\n"
    )
    link.sendall(
        (
            f"INVITE sip:{number}@{host}:{port};transport={transport.lower()} SIP/2.0\r\n"
            + top.format(tag="")
            + f"CSeq: 1 INVITE\r\nContact: <sip:x@{here}:{near};transport={transport.lower()}>\r\n"
            f"{headers}Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
    )
    seen = b""
    while True:
        data = link.recv(8192)
        if not data:
            return 0, ""
        seen += data
        for found in re.finditer(rb"^SIP/2\.0 ([0-9]{3}) ", seen, re.M):
            text = seen[found.start() :].decode(errors="replace")
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
