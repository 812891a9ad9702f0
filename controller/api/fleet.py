"""The fleet as a whole: its nodes, counters, and who works for it."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from controller.api import reply
from controller.api.nodes import all_nodes
from controller.api.shapes import FleetView
from controller.config import Config
from controller.fleet.functions import Fleet
from controller.version import VERSION


def routes(config: Config, fleet: Fleet) -> list[web.RouteDef]:
    return [web.get("/v1/fleet", partial(_show, config, fleet), name="fleet")]


async def _show(config: Config, fleet: Fleet, _: web.Request) -> web.Response:
    presence = await fleet.presence()
    return reply.json(
        FleetView(
            fleet=fleet.name,
            version=VERSION,
            now_ms=presence.now_ms,
            leader=presence.leader,
            drivers=list(presence.drivers),
            nodes=await all_nodes(config, fleet),
            counters=await fleet.stats(),
        )
    )
