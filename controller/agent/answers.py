"""The agent's answer to its dialplans: `GET /route` on loopback.

Query: call, region, callee, caller, node (who asks), failed. The answer is one line,
`verdict|node|address|placement|cause|service`, which CUT() and Lua's string library read without
a parser, or JSON when the Accept header asks for it. Verdict: place, reject, or search: the number
is a phone and Redis, which knows where it is, is away, so the dialplan tries the nodes. It is
always answered within the deadline and a little, by Redis or, failing that, by the snapshot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web
from prometheus_client import Counter, Gauge, Histogram

from controller.config import Config
from controller.errors import PbxctlError
from controller.fleet.functions import Fleet
from controller.metrics import make_registry
from controller.model import Placed, Rejected, Verdict
from controller.routing.fallback import Ask, Fallback, Snapshot, range_of

TAG = ";tag="  # between a Call-ID and the From tag, as lua/redis/11_record.lua has it
TAG_MAX_CHARS = 128
CALL_ID_MAX_CHARS = 256  # of a Call-ID; longer ones are refused, as cutting them could mix up calls
TEXT_MAX_CHARS = 128

REGISTRY = make_registry("agent")

_answered = Counter(
    "pbxctl_agent_answers_total",
    "Route questions of dialplans, by verdict and source",
    ["verdict", "source"],
    registry=REGISTRY,
)
for _verdict in ("place", "reject", "search"):
    for _source in ("redis", "snapshot"):
        _answered.labels(_verdict, _source)
_seconds = Histogram(
    "pbxctl_agent_answer_seconds",
    "Time from question to answer",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1),
    registry=REGISTRY,
)
_bad = Counter(
    "pbxctl_agent_bad_questions_total", "Questions refused for their form", registry=REGISTRY
)
_snapshot_s = Gauge(
    "pbxctl_agent_snapshot_age_seconds", "Age of the agent's picture; -1: none", registry=REGISTRY
)


@dataclass(frozen=True)
class _Question:
    ask: Ask
    caller: str


def _text(request: web.Request, key: str) -> str:
    """A stranger's text as UTF-8 that Redis and JSON can hold, whatever was percent-encoded."""
    raw = request.query.get(key, "")
    return raw.encode("utf-8", "replace").decode("utf-8", "replace").replace("\0", "")


class Search(msgspec.Struct, frozen=True, tag="search"):
    """Try every node; those where the phone is registered ring it."""

    reason: str = "Redis is away, and it alone knows where the phone is"


class Answers:
    """Asks the fleet, else the snapshot, which the caller of this class keeps fresh.

    is_phone: whether a number is a phone that the nodes here hold.
    """

    def __init__(
        self, config: Config, fleet: Fleet, is_phone: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._is_phone = is_phone
        self._config = config
        self._fleet = fleet
        self._fallback = Fallback(config)
        self._deadline_s = config.agent.deadline_ms / 1000
        self.snapshot: Snapshot | None = None
        _snapshot_s.set_function(self._age_s)

    def _age_s(self) -> float:
        return time.time() - self.snapshot.taken_s if self.snapshot else -1

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1024)
        app.router.add_get("/route", self.route)
        return app

    async def route(self, request: web.Request) -> web.Response:
        began = time.monotonic()
        question = self._question(request)
        if question is None:
            _bad.inc()
            return web.Response(status=400, text="call and a known region are needed\n")
        verdict, source = await self._verdict(question)
        word = line(verdict).partition("|")[0]
        _answered.labels(word, source).inc()
        _seconds.observe(time.monotonic() - began)
        if "application/json" in request.headers.get("Accept", ""):
            return web.Response(body=msgspec.json.encode(verdict), content_type="application/json")
        return web.Response(text=line(verdict))

    def _question(self, request: web.Request) -> _Question | None:
        call_id, region = _text(request, "call"), _text(request, "region")
        if not call_id or len(call_id) > CALL_ID_MAX_CHARS or region not in self._config.regions:
            return None
        if tag := _text(request, "tag"):
            if len(tag) > TAG_MAX_CHARS:
                return None
            call_id += TAG + tag
        ask = Ask(
            call_id,
            region,
            callee=_text(request, "callee")[:TEXT_MAX_CHARS],
            own=_text(request, "node"),
            failed=_text(request, "failed")[:TEXT_MAX_CHARS],
        )
        return _Question(ask, _text(request, "caller")[:TEXT_MAX_CHARS])

    async def _verdict(self, question: _Question) -> tuple[Verdict | Search, str]:
        ask = question.ask
        try:
            async with asyncio.timeout(self._deadline_s):
                verdict = await self._fleet.route(
                    ask.call_id, ask.region, question.caller, ask.callee, "", ask.failed
                )
        except (PbxctlError, TimeoutError):
            return self._without_redis(ask), "snapshot"
        if isinstance(verdict, Rejected) and verdict.blind:
            return self._without_redis(ask), "snapshot"
        if isinstance(verdict, Placed):
            self._fallback.remember(ask.call_id, verdict)
        return verdict, "redis"

    def _without_redis(self, ask: Ask) -> Verdict | Search:
        number = range_of(self._config.numbers, ask.callee)
        if (number is None or number.service == "phone") and self._is_phone(ask.callee):
            return Search()
        return self._fallback.decide(ask, self.snapshot, time.monotonic())


def line(verdict: Verdict | Search) -> str:
    """The verdict as a dialplan reads it; `|` stands in none of the fields."""
    if isinstance(verdict, Search):
        return "search|||||"
    if isinstance(verdict, Placed):
        fields = ("place", verdict.node, verdict.address, verdict.placement, "", verdict.service)
    else:
        fields = ("reject", "", "", "", str(verdict.cause), "")
    return "|".join(part.replace("|", "") for part in fields)
