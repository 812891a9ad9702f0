"""Who sent a request: the peer's user on a unix socket, or the name in its certificate."""

from __future__ import annotations

import pwd
import socket
import struct

from aiohttp import web

_UCRED = struct.Struct("3i")


def caller_of(request: web.Request) -> str:
    """As "uid:0(root)" or "cert:CN"; "unknown" when the connection tells neither."""
    transport = request.transport
    if transport is None:
        return "unknown"
    certificate = transport.get_extra_info("peercert")
    if certificate:
        for part in certificate.get("subject", ()):
            for key, value in part:
                if key == "commonName":
                    return f"cert:{value}"
        return "cert:without a name"
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return "unknown"
    _pid, uid, _gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    try:
        return f"uid:{uid}({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        return f"uid:{uid}"
