"""The gate's HTTP application: its routes, and the one border where errors become JSON.

Every answer is JSON; an error is `{"error": {kind, message, hint, exit_code}}`. Requests that
change something are POST, and each leaves one line in the journal, refused ones included.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from controller.api import alarms, calls, fleet, journal, nodes, phones, route
from controller.api.shapes import ErrorBody, ErrorReply
from controller.api.who import caller_of
from controller.config import Config
from controller.errors import (
    DeadlineExceeded,
    NotFound,
    PbxctlError,
    Refused,
    Unreachable,
    UsageError,
)
from controller.fleet.functions import Fleet

BODY_BYTES_MAX = 64 << 10
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
A = TypeVar("A")

#: the first class that fits decides
_STATUS: tuple[tuple[type[PbxctlError], int], ...] = (
    (NotFound, 404),
    (UsageError, 400),
    (DeadlineExceeded, 504),
    (Unreachable, 503),
    (Refused, 409),
    (PbxctlError, 500),
)


def make_app(config: Config, the_fleet: Fleet) -> web.Application:
    """The application; the fleet stays the caller's to close."""
    app = web.Application(middlewares=[_borders], client_max_size=BODY_BYTES_MAX)
    for noun in (nodes, calls, alarms, route, fleet, phones):
        app.add_routes(noun.routes(config, the_fleet))
    return app


def error_reply(error: PbxctlError) -> web.Response:
    body = ErrorBody(type(error).__name__, error.message, error.hint, error.exit_code)
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return web.json_response(body=msgspec.json.encode(ErrorReply(body)), status=status)


@web.middleware
async def _borders(request: web.Request, handler: Handler) -> web.StreamResponse:
    begun = time.monotonic()
    try:
        response = await handler(request)
    except PbxctlError as error:
        response = error_reply(error)
    except msgspec.DecodeError as error:
        response = error_reply(UsageError(f"the request's body: {error}"))
    except web.HTTPException as error:
        response = _from_http(error)
    except Exception as error:  # the border: nothing but JSON leaves, and the gate goes on
        journal.fault(request.method, request.path, error)
        hint = "the gate's log has the details"
        response = error_reply(PbxctlError("the gate failed on this request", hint=hint))
    if request.method != "GET":
        took_ms = round((time.monotonic() - begun) * 1000)
        journal.write(caller_of(request), request, response.status, took_ms)
    return response


def _from_http(error: web.HTTPException) -> web.Response:
    if error.status in (404, 405):
        hint = "client and gate may be of different versions: pbxctl --version"
        return error_reply(NotFound("the gate has no such request", hint=hint))
    return error_reply(UsageError(f"the gate refuses the request: {error.reason}"))
