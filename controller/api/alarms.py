"""Alarms: what a person should see, the newest first."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from controller.api import reply
from controller.api.shapes import Alarms
from controller.config import Config
from controller.errors import UsageError
from controller.fleet.functions import Fleet

LIMIT_MAX = 500  # as many as lua/redis/35_attest.lua keeps


def routes(_: Config, fleet: Fleet) -> list[web.RouteDef]:
    return [web.get("/v1/alarms", partial(_list, fleet), name="alarms")]


async def _list(fleet: Fleet, request: web.Request) -> web.Response:
    limit = request.query.get("limit", "100")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= LIMIT_MAX:
        raise UsageError(f"limit must be 1 to {LIMIT_MAX}")
    return reply.json(Alarms(await fleet.alarms(int(limit))))
