"""The client of gate and vault, blocking: what the CLI speaks. http.client keeps a command's start
short.

Every failure leaves as a PbxctlError: the server's own errors come back as the class they were,
so that exit codes are the same on both sides.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from controller import errors
from controller.api.shapes import ErrorReply
from controller.errors import (
    CommandRefused,
    DeadlineExceeded,
    LinkLost,
    PbxctlError,
    ProtocolViolation,
    Unreachable,
    UsageError,
)

TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 64 << 20
PIECE_BYTES = 256 << 10
_MAYBE = "what was asked for may still happen: look before you repeat it"
S = TypeVar("S")

_KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, PbxctlError)
    and kind is not errors.ConfigError  # it carries a file and a line of the gate's machine
}


@dataclass(frozen=True)
class UnixGate:
    """A gate on this machine."""

    path: Path


@dataclass(frozen=True)
class TlsGate:
    """A gate or vault on the network: https://host:port; cert and key are ours, ca is its own."""

    url: str
    cert: Path
    key: Path
    ca: Path


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("gate", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def client_tls(gate: TlsGate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        for path in (gate.ca, gate.cert, gate.key):  # ssl does not tell which one it could not open
            path.open("rb").close()
        context.load_verify_locations(gate.ca)
        context.load_cert_chain(gate.cert, gate.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the context's certificate files cannot be used: {error}",
            hint="cert, key and ca of the context must be readable PEM files",
        ) from error
    return context


class Gate:
    """Asks one gate, or one vault. Opens a connection per request, so it may be kept for hours.

    name: gate or vault, in messages.
    """

    def __init__(
        self, where: UnixGate | TlsGate, *, timeout_s: float = TIMEOUT_S, name: str = "gate"
    ) -> None:
        self._name = name
        self._where = where
        self._timeout_s = timeout_s
        self._tls = client_tls(where) if isinstance(where, TlsGate) else None

    def get(self, kind: type[S], *path: str, **query: str) -> S:
        """The answer to GET /v1/path…?query as `kind`. Parts of the path are quoted here."""
        asked = "?" + urlencode(query) if query else ""
        return self._ask("GET", _path(path) + asked, None, kind)

    def post(self, kind: type[S], *path: str, body: msgspec.Struct) -> S:
        """The answer to POST /v1/path… as `kind`. Never sent twice."""
        return self._ask("POST", _path(path), msgspec.json.encode(body), kind)

    @contextmanager
    def stream(self, *path: str, **query: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The answer to GET /v1/path…?query as (its length, its pieces).

        Raises LinkLost, from the pieces too, when the server ends it before its length is reached.
        """
        connection = self._connection()
        try:
            with self._translated(maybe_done=False):
                connection.connect()
                connection.request("GET", _path(path) + ("?" + urlencode(query) if query else ""))
                response = connection.getresponse()
            if response.status != 200:
                raw = response.read(ANSWER_BYTES_MAX)
                _decoded(raw, response.status, bytes, self._name)
            yield response.length or 0, self._pieces(response)
        finally:
            connection.close()

    def _pieces(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while response.length:
            with self._translated(maybe_done=False):
                piece = response.read1(PIECE_BYTES)
            if not piece:
                raise LinkLost(f"the {self._name} ended its answer {response.length} bytes short")
            yield piece

    def _connection(self) -> http.client.HTTPConnection:
        if isinstance(self._where, UnixGate):
            return _UnixConnection(self._where.path, self._timeout_s)
        parts = urlsplit(self._where.url)
        if parts.scheme != "https" or not parts.hostname:
            raise UsageError(
                f"{self._where.url!r} is no {self._name}", hint="as in https://gate.example:8443"
            )
        return http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=self._timeout_s, context=self._tls
        )

    def _ask(self, method: str, path: str, body: bytes | None, kind: type[S]) -> S:
        connection = self._connection()
        try:
            with self._translated(maybe_done=False):
                connection.connect()
            with self._translated(maybe_done=method == "POST"):
                headers = {"Content-Type": "application/json"} if body is not None else {}
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                raw = response.read(ANSWER_BYTES_MAX + 1)
        finally:
            connection.close()
        if len(raw) > ANSWER_BYTES_MAX:
            raise ProtocolViolation(f"the {self._name}'s answer is larger than 64 MiB")
        return _decoded(raw, response.status, kind, self._name)

    @contextmanager
    def _translated(self, *, maybe_done: bool) -> Iterator[None]:
        """maybe_done: whether what was asked for may happen although no answer came."""
        try:
            yield
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the {self._name} gave no answer within {self._timeout_s:g} s",
                hint=_MAYBE if maybe_done else f"look at the {self._name}'s log: pbxctl doctor",
            ) from error
        except ssl.SSLError as error:
            raise CommandRefused(
                f"no secure connection to the {self._name}: {error.reason or error}",
                hint="check certificate, key and ca: pbxctl context list, pbxctl pki list",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error, maybe_done) from error

    def _unreachable(self, error: Exception, maybe_done: bool) -> Unreachable:
        if isinstance(self._where, UnixGate):
            if isinstance(error, PermissionError):
                hint = "run as the user that runs pbxctl: its socket is for that user alone"
            else:
                hint = (
                    "start it: pbxctl up (all roles) or pbxctl run gate; pbxctl doctor tells more"
                )
            at = str(self._where.path)
        else:
            at = self._where.url
            hint = f"check the address and that the {self._name} runs there"
            # By TLS 1.3 our handshake is over before the other side looks at the certificate.
            if isinstance(error, (ConnectionResetError, BrokenPipeError)):
                hint = (
                    f"a {self._name} does so to a certificate that is revoked, out of date or not "
                    "of its people: pbxctl pki list, on its machine"
                )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        what = f"the {self._name} at {at} does not answer: {reason}"
        return Unreachable(what, hint=_MAYBE if maybe_done else hint)


def _path(parts: tuple[str, ...]) -> str:
    if not all(parts):  # as from a shell's variable that is not set
        raise UsageError("a name or ID is empty", hint="give one, or check the variable it is from")
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _decoded(raw: bytes, status: int, kind: type[S], server: str = "gate") -> S:
    try:
        if status == 200:
            return msgspec.json.decode(raw, type=kind)
        told = msgspec.json.decode(raw, type=ErrorReply).error
    except msgspec.DecodeError as error:
        raise ProtocolViolation(
            f"the {server}'s answer cannot be read: {error}",
            hint=f"client and {server} may be of different versions: pbxctl --version",
        ) from error
    raise _KINDS.get(told.kind, PbxctlError)(told.message, hint=told.hint)
