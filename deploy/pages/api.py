"""docs/api.md, made from the routes that gate and vault serve and the shapes they speak in.

Method and path come from the applications; body, query and right from what each handler reads.
What a handler answers is said here, and tests/unit/test_pages.py asks a gate whether it is so.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

import msgspec
from aiohttp import web

from controller.access.roles import RIGHTS, Right
from controller.api import recording_control, recording_shapes, recordings, shapes, vault
from controller.api.app import make_app
from controller.api.border import _STATUS
from controller.fleet.state import NodeView
from controller.vault.found import Found

#: route name: what is answered (None: no JSON), and what it is for
SAID: dict[str, tuple[type[msgspec.Struct] | None, str]] = {
    "nodes": (shapes.Nodes, "Every node."),
    "node": (NodeView, "One node."),
    "node.action": (shapes.NodeAction, "Take a node out of or into service."),
    "calls": (shapes.Calls, "Live calls."),
    "originate": (shapes.CallAction, "Call a number from the node that placement chooses."),
    "call": (shapes.CallView, "One call; `id` is its key, SIP Call-ID or placement."),
    "call.why": (shapes.Why, "Why the call went to its node."),
    "hangup": (shapes.CallAction, "End every leg of a call."),
    "call.recording": (recording_control.RecordingChange, "Record a call, pause or stop that."),
    "alarms": (shapes.Alarms, "What a person should see, the newest first."),
    "route": (shapes.RouteAnswer, "Where a call would go, or goes."),
    "fleet": (shapes.FleetView, "The fleet as a whole."),
    "phones": (shapes.Phones, "Every phone, and where each is registered."),
    "phone.add": (shapes.PhoneCredentials, "Make a phone. The password is answered once."),
    "phone.dns": (shapes.PhoneZone, "DNS SRV records by which phones find the nodes."),
    "phone": (shapes.PhoneView, "One phone."),
    "phone.rotate": (shapes.PhoneCredentials, "Give a phone a new password."),
    "phone.remove": (shapes.PhoneView, "Remove a phone."),
    "recordings": (recording_shapes.Recordings, "Recordings, the latest first; numbers masked."),
    "recording": (recording_shapes.RecordingDetail, "Everything about one but its audio."),
    "recording.audio": (None, "The audio, or a piece of it, as a WAV."),
    "recording.peaks": (recording_shapes.Peaks, "How loud it is along its length."),
    "recording.verify": (recording_shapes.Verified, "Open every segment and throw it away."),
    "recording.hold": (recording_shapes.RecordingAction, "Place a legal hold, or lift all."),
    "recording.erase": (recording_shapes.RecordingAction, "Destroy its key."),
    "person": (recording_shapes.Recordings, "All that concerns one number, in clear."),
    "kept": (recording_shapes.KeptReport, "What is kept and why, by tenant and rule."),
    "reads": (recording_shapes.Reads, "Who read what, the latest first."),
    "vault": (recording_shapes.VaultStatus, "Keys, store, what waits or is lost."),
    "vault.work": (recording_shapes.VaultWork, "How far a check or a rotation has come."),
    "vault.rotate": (recording_shapes.Rotated, "Wrap every key slot anew."),
    "vault.check": (Found, "Compare every body with what was stored."),
}

HEAD = """\
# The API

Made from the code by `make pages`; a test fails when the two differ. JSON over HTTP/1.1. Keys are
stable: new ones may come, none goes away or changes its meaning.

**The gate** listens on a unix socket in `state_dir` and, with `gate.listen`, by TLS 1.3 with client
certificates of the authority `people`. **The vault** listens at `vault.listen` and asks for the
same certificates, with a role in each (`pbxctl pki issue NAME --role`). `GET` changes nothing.
Every `POST` leaves one line in the log: who (the socket's user, or the certificate's name), what,
when, how it ended; of phone numbers only the last three digits.

```
curl --unix-socket state/gate.sock http://gate/v1/nodes
curl --cert alice.pem --key alice.key --cacert ca.pem https://192.0.2.1:8443/v1/calls
```

Times are milliseconds of Redis TIME (the gate) or since 1970 (the vault), 0 for not yet; -1 stands
for what a PBX does not tell. An error is `{"error": {"kind", "message", "hint", "exit_code"}}` with
`kind` a class of `controller/errors.py` and the status """

TAIL = """
Two more interfaces are not for people: an agent's `GET /route` on loopback, which dialplans ask,
and the vault's `/v1/ingest`, to which agents send sealed segments (`controller/vault/wire.py`).

## Shapes

A key with a value behind `=` may be left out of a body."""


@functools.cache
def routes() -> tuple[tuple[str, web.RouteDef], ...]:
    """("gate" or "vault", the route), as served."""
    nothing = cast(Any, None)  # handlers are made, never called
    gate = [
        web.RouteDef(r.method, _path(r.resource), r.handler, {"name": r.resource.name})
        for r in make_app(nothing, nothing).router.routes()
        if r.resource and r.method != "HEAD"
    ]
    kept = [*recordings.routes(nothing), *vault.routes(nothing, nothing, nothing)]
    return (*(("gate", route) for route in gate), *(("vault", route) for route in kept))


def _path(resource: web.AbstractResource) -> str:
    """With what a part of it may be, as in {verb:drain|resume}; `canonical` has lost that."""
    pattern = resource.get_info().get("pattern")
    verbs = re.search(r"\(\?P<verb>([^)]*)\)", pattern.pattern) if pattern else None
    return resource.canonical.replace("{verb}", f"{{verb:{verbs[1]}}}" if verbs else "{verb}")


def page() -> str:
    status = ", ".join(f"{code} {kind.__name__}" for kind, code in _STATUS)
    used: dict[str, type[msgspec.Struct]] = {}
    lines = [HEAD + f"{status}."]
    for server in ("gate", "vault"):
        role = " role |" if server == "vault" else ""
        lines.append(f"\n## The {server}\n\n| request | for | query | body | answer |{role}")
        lines.append("|---|---|---|---|---|" + ("---|" if role else ""))
        lines += [_row(route, used, bool(role)) for of, route in routes() if of == server]
    lines.append(TAIL)
    for name in sorted(used):
        lines.append(_shape(used[name]))
    return "\n".join(lines) + "\n"


def _row(route: web.RouteDef, used: dict[str, type[msgspec.Struct]], role: bool) -> str:
    answer, said = SAID[route.kwargs["name"]]
    verbs = re.search(r"\{verb:([^}]*)\}", route.path)
    if verbs:
        said += f" `verb`: {', '.join(verbs[1].split('|'))}."
    body = body_of(route)
    cells = [
        f"`{route.method} {re.sub(r'{verb:[^}]*}', '{verb}', route.path)}`",
        said,
        ", ".join(f"`{key}`" for key in sorted(asked(route))),
        _linked(body, used) if body else "",
        _linked(answer, used) if answer else "`audio/wav`",
    ]
    if role:
        rights = rights_of(route)
        cells.append(", ".join(one for one in RIGHTS if RIGHTS[one] & rights))
    return f"| {' | '.join(cells)} |"


def _source(route: web.RouteDef) -> str:
    """Of the handler and of the functions of its module by which it reads the request."""
    handler = route.handler
    function = handler.func if isinstance(handler, functools.partial) else handler
    text = inspect.getsource(function)
    module = inspect.getmodule(function)
    for name in set(re.findall(r"\b(_\w+)\(request\)", text)):
        text += inspect.getsource(getattr(module, name))
    return text


def asked(route: web.RouteDef) -> set[str]:
    """Keys of the query that the handler reads."""
    text = _source(route)
    return {
        *re.findall(r'\bquery\.get\("(\w+)"', text),
        *re.findall(r'_number\(request, "(\w+)"', text),
        *re.findall(r'"(\w+)" in query\b', text),
    }


def body_of(route: web.RouteDef) -> type[msgspec.Struct] | None:
    handler = route.handler
    function = handler.func if isinstance(handler, functools.partial) else handler
    found = re.search(r"reply\.body\(request, (\w+)\)", _source(route))
    kind = getattr(inspect.getmodule(function), found[1]) if found else None
    return cast("type[msgspec.Struct] | None", kind)


def rights_of(route: web.RouteDef) -> set[Right]:
    """Without Right.REVEAL where it only changes what is seen."""
    return {
        Right[name]
        for name in re.findall(r"(?:require|_begin)\(request, Right\.(\w+)", _source(route))
    }


def _linked(kind: type[msgspec.Struct], used: dict[str, type[msgspec.Struct]]) -> str:
    for one in (kind, *_inside(kind)):
        used[one.__name__] = one
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def _inside(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        for one in _structs(field.type):
            yield one
            yield from _inside(one)


def _structs(told: msgspec.inspect.Type) -> Iterable[type[msgspec.Struct]]:
    match told:
        case msgspec.inspect.StructType(cls=cls):
            yield cls
        case msgspec.inspect.ListType(item_type=item):
            yield from _structs(item)
        case msgspec.inspect.UnionType(types=types):
            for one in types:
                yield from _structs(one)


def _shape(kind: type[msgspec.Struct]) -> str:
    doc = inspect.cleandoc(kind.__doc__ or "")
    said = f"{doc}\n\n" if doc else ""
    keys = []
    for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        default = "" if field.default is msgspec.NODEFAULT else f" = {_json(field.default)}"
        keys.append(f"`{field.encode_name}` {_told(field.type)}{default}")
    return f"\n### {kind.__name__}\n\n{said}" + " · ".join(keys)


def _json(value: object) -> str:
    return f"`{msgspec.json.encode(value).decode()}`"


def _told(told: msgspec.inspect.Type) -> str:
    match told:
        case msgspec.inspect.StructType(cls=cls):
            return f"[{cls.__name__}](#{cls.__name__.lower()})"
        case msgspec.inspect.ListType(item_type=item):
            return f"list of {_told(item)}"
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return f"map of {_told(key)} to {_told(value)}"
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(map(_told, types))
        case msgspec.inspect.EnumType(cls=cls):
            return ", ".join(f"`{one.value}`" for one in cls)
        case msgspec.inspect.LiteralType(values=values):
            return ", ".join(f"`{one}`" for one in values)
        case msgspec.inspect.NoneType():
            return "null"
        case msgspec.inspect.StrType(max_length=most):
            return f"text of {most}" if most else "text"
        case msgspec.inspect.IntType(ge=low, le=high) | msgspec.inspect.FloatType(ge=low, le=high):
            name = "integer" if isinstance(told, msgspec.inspect.IntType) else "number"
            return f"{name}, {low:g} to {high:g}" if low is not None and high is not None else name
        case msgspec.inspect.BoolType():
            return "true, false"
    raise TypeError(f"{told} has no name in docs/api.md yet")
