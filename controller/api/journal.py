"""One structured line for each request that changes something: who, what, when, how it ended.

No personal data in clear: of a phone number the last three digits stay. Paths are the gate's own
(node names, call keys), never more than a call id of them; values are JSON-encoded, so nothing in
them can forge a line.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import msgspec
from aiohttp import web

log = logging.getLogger(__name__)
#: where a handler leaves what it was asked, already free of personal data
WHAT: web.RequestKey[dict[str, Any]] = web.RequestKey("what", dict)

_KEEP_DIGITS = 3


def to_stderr() -> None:
    """Lets the lines go out bare, one JSON document each, beside the role's own log."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def masked(number: str) -> str:
    """A number with all but its last three digits hidden, its length kept (32 at most)."""
    if len(number) <= _KEEP_DIGITS:
        return "*" * len(number)
    return "*" * min(len(number) - _KEEP_DIGITS, 32) + number[-_KEEP_DIGITS:]


def note(request: web.Request, **what: object) -> None:
    """Adds to what this request's line will say. Numbers must come masked."""
    request[WHAT] = request.get(WHAT, {}) | what


def write(who: str, request: web.Request, status: int, took_ms: int) -> None:
    name = request.match_info.route.name or "unknown request"
    line = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "event": "request",
        "who": who,
        "what": name,
        **request.get(WHAT, {}),
        "status": status,
        "took_ms": took_ms,
    }
    log.info("%s", msgspec.json.encode(line).decode())


def fault(method: str, path: str, error: Exception) -> None:
    """A defect of ours: the traceback is needed to mend it."""
    what = msgspec.json.encode({"event": "fault", "method": method, "path": path[:128]})
    log.error("%s", what.decode(), exc_info=error)
