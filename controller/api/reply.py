"""Reading a request's body into its shape, and a shape into an answer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from aiohttp import web

from controller.errors import NotFound, UsageError

S = TypeVar("S", bound=msgspec.Struct)


def json(shape: msgspec.Struct) -> web.Response:
    return web.json_response(body=msgspec.json.encode(shape))


async def body(request: web.Request, kind: type[S]) -> S:
    """The body as `kind`; an empty one counts as {}. UsageError says what is wrong with it."""
    raw = await request.read()
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise UsageError(f"the request's body: {error}") from error


def unknown(noun: str, name: str, known: Iterable[str]) -> NotFound:
    """The error for a name that nothing has, with the nearest that something has."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 3, 0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif names:
        hint = f"known: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"
    else:
        hint = f"there is no {noun} yet"
    return NotFound(f"there is no {noun} {name[:64]!r}", hint=hint)
