"""Who sent a request, and what they may: the peer's user on a unix socket, or a certificate."""

from __future__ import annotations

import pwd
import socket
import struct

from aiohttp import web

from controller.access.roles import Right, Role, rights_of, who_may
from controller.errors import CommandRefused

_UCRED = struct.Struct("3i")


def caller_of(request: web.Request) -> str:
    """As "uid:0(root)" or "cert:CN"; "unknown" when the connection tells neither."""
    transport = request.transport
    if transport is None:
        return "unknown"
    if transport.get_extra_info("peercert"):
        return f"cert:{common_name(request) or 'without a name'}"
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


def common_name(request: web.Request) -> str | None:
    """Of the peer's certificate."""
    return next(iter(_named(request, "commonName")), None)


def roles_of(request: web.Request) -> list[str]:
    """The organizational units of the peer's certificate."""
    return _named(request, "organizationalUnitName")


def address_of(request: web.Request) -> str:
    """Where the request came from; of a unix socket "local"."""
    return request.remote or "local"


def rights(request: web.Request) -> frozenset[Right]:
    return rights_of(roles_of(request))


def require(request: web.Request, right: Right) -> None:
    """Raises CommandRefused unless a role in the peer's certificate has that right."""
    roles = roles_of(request)
    if right not in rights(request):
        raise CommandRefused(
            f"{caller_of(request)} with role {', '.join(roles) or 'none'} may not: {right}",
            hint=f"it takes the role {' or '.join(who_may(right))}: pbxctl pki issue NAME --role",
        )


def require_fleet(request: web.Request) -> None:
    """The same for a change of the fleet, which this machine's own user may make as well.

    A certificate of no role of ours is an operator's: roles came later, and an authority of the
    operator's own may use the field for something else.
    """
    if set(roles_of(request)) & set(Role):
        require(request, Right.FLEET)


def _named(request: web.Request, attribute: str) -> list[str]:
    certificate = request.transport and request.transport.get_extra_info("peercert")
    subject = certificate.get("subject", ()) if certificate else ()
    return [str(value) for part in subject for key, value in part if key == attribute]
