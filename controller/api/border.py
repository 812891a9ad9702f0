"""The one border of an HTTP application where errors become JSON, for the gate and the vault.

Every answer is JSON; an error is `{"error": {kind, message, hint, exit_code}}`. Requests that
change something are POST, and each leaves one line in the journal, refused ones included.
"""

from __future__ import annotations

import time

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from controller.api import journal
from controller.api.shapes import ErrorBody, ErrorReply
from controller.api.who import caller_of
from controller.errors import (
    DeadlineExceeded,
    NotFound,
    PbxctlError,
    Refused,
    Unreachable,
    UsageError,
)

#: the first class that fits decides
_STATUS: tuple[tuple[type[PbxctlError], int], ...] = (
    (NotFound, 404),
    (UsageError, 400),
    (DeadlineExceeded, 504),
    (Unreachable, 503),
    (Refused, 409),
    (PbxctlError, 500),
)


def error_reply(error: PbxctlError) -> web.Response:
    body = ErrorBody(type(error).__name__, error.message, error.hint, error.exit_code)
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return web.json_response(body=msgspec.json.encode(ErrorReply(body)), status=status)


def border(server: str, *, journalled: bool = True) -> Middleware:
    """The middleware of `server`, which is "gate" or "vault" in its messages.

    journalled: false for what machines send every second.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = time.monotonic()
        try:
            response = await handler(request)
        except PbxctlError as error:
            response = error_reply(error)
        except msgspec.DecodeError as error:
            response = error_reply(UsageError(f"the request's body: {error}"))
        except web.HTTPException as error:
            response = _from_http(server, error)
        except Exception as error:  # the border: nothing but JSON leaves, and the server goes on
            journal.fault(request.method, request.path, error)
            hint = f"the {server}'s log has the details"
            response = error_reply(PbxctlError(f"the {server} failed on this request", hint=hint))
        if journalled and request.method != "GET":
            took_ms = round((time.monotonic() - begun) * 1000)
            journal.write(caller_of(request), request, response.status, took_ms)
        return response

    return middleware


def _from_http(server: str, error: web.HTTPException) -> web.Response:
    if error.status in (404, 405):
        hint = f"client and {server} may be of different versions: pbxctl --version"
        return error_reply(NotFound(f"the {server} has no such request", hint=hint))
    return error_reply(UsageError(f"the {server} refuses the request: {error.reason}"))
