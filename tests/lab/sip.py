"""One SIP OPTIONS by hand: is the stack at an address alive?"""

from __future__ import annotations

import secrets
import socket
import ssl


def answers_options(address: str, port: int, timeout_s: float = 0.3) -> bool:
    """Any response will do: 404 comes from a living stack as much as 200 does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind(("127.0.0.1", 0))
        link.settimeout(timeout_s)
        try:
            link.connect((address, port))  # connected, so that a closed port refuses at once
            link.send(_options(address, port, "UDP", "{}:{}".format(*link.getsockname())))
            return link.recv(4096).startswith(b"SIP/2.0 ")
        except OSError:
            return False


def answers_options_tls(
    address: str, port: int, context: ssl.SSLContext, timeout_s: float = 0.4, source: str = ""
) -> bool:
    """The same over TLS, with the certificate of `context`; source: the address to come from."""
    try:
        near = (source, 0) if source else None
        with (
            socket.create_connection((address, port), timeout_s, near) as plain,
            context.wrap_socket(plain, server_hostname=address) as link,
        ):
            link.sendall(_options(address, port, "TLS", "{}:{}".format(*link.getsockname())))
            return link.recv(4096).startswith(b"SIP/2.0 ")
    except OSError:
        return False


def _options(address: str, port: int, transport: str, here: str) -> bytes:
    tag = secrets.token_hex(8)
    return (
        f"OPTIONS sip:lab@{address}:{port} SIP/2.0\r\n"
        f"Via: SIP/2.0/{transport} {here};branch=z9hG4bK{tag};rport\r\n"
        f"From: <sip:lab@{here}>;tag={tag}\r\nTo: <sip:lab@{address}:{port}>\r\n"
        f"Call-ID: {tag}@lab\r\nCSeq: 1 OPTIONS\r\nContact: <sip:lab@{here}>\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()
