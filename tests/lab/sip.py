"""One SIP OPTIONS by hand: is the stack at an address alive?"""

from __future__ import annotations

import secrets
import socket


def answers_options(address: str, port: int, timeout_s: float = 0.3) -> bool:
    """Any response will do: 404 comes from a living stack as much as 200 does."""
    tag = secrets.token_hex(8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind(("127.0.0.1", 0))
        link.settimeout(timeout_s)
        here = "{}:{}".format(*link.getsockname())
        request = (
            f"OPTIONS sip:lab@{address}:{port} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {here};branch=z9hG4bK{tag};rport\r\n"
            f"From: <sip:lab@{here}>;tag={tag}\r\nTo: <sip:lab@{address}:{port}>\r\n"
            f"Call-ID: {tag}@lab\r\nCSeq: 1 OPTIONS\r\nContact: <sip:lab@{here}>\r\n"
            "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
        try:
            link.connect((address, port))  # connected, so that a closed port refuses at once
            link.send(request.encode())
            return link.recv(4096).startswith(b"SIP/2.0 ")
        except OSError:
            return False
