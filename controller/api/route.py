"""Where a call would go, or goes: the placement function, asked by a person or a machine."""

from __future__ import annotations

import uuid
from functools import partial

from aiohttp import web

from controller.api import journal, reply
from controller.api.shapes import RouteAnswer, RouteAsk
from controller.config import Config
from controller.fleet.functions import Fleet
from controller.model import Placed


def routes(config: Config, fleet: Fleet) -> list[web.RouteDef]:
    return [web.post("/v1/route", partial(_route, config, fleet), name="route")]


def region_of(config: Config, asked: str) -> str:
    """The region asked for, or the config's first; NotFound names near ones."""
    region = asked or next(iter(config.regions))
    if region not in config.regions:
        raise reply.unknown("region", region, config.regions)
    return region


async def _route(config: Config, fleet: Fleet, request: web.Request) -> web.Response:
    ask = await reply.body(request, RouteAsk)
    region = region_of(config, ask.region)
    call_id = ask.call_id or f"gate-{uuid.uuid4().hex}"
    journal.note(
        request, to=journal.masked(ask.to), caller=journal.masked(ask.caller), region=region,
        dry_run=ask.dry_run,
    )  # fmt: skip
    priority = ask.priority.value if ask.priority else ""
    verdict = await fleet.route(call_id, region, ask.caller, ask.to, priority, dry=ask.dry_run)
    answer = partial(RouteAnswer, reason=verdict.reason, dry_run=ask.dry_run, region=region)
    if isinstance(verdict, Placed):
        return reply.json(
            answer(
                verdict="place",
                node=verdict.node,
                address=verdict.address,
                placement="" if ask.dry_run else verdict.placement,
                service=verdict.service,
            )
        )
    return reply.json(
        answer(verdict="reject", cause=verdict.cause, retry_after_s=verdict.retry_after_s)
    )
