"""The gate's HTTP application: its routes."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from controller.api import alarms, calls, fleet, nodes, phones, recording_control, route
from controller.api.border import border
from controller.api.who import require_fleet
from controller.config import Config
from controller.fleet.functions import Fleet

BODY_BYTES_MAX = 64 << 10


def make_app(config: Config, the_fleet: Fleet) -> web.Application:
    """The application; the fleet stays the caller's to close."""
    app = web.Application(middlewares=[border("gate"), _operators], client_max_size=BODY_BYTES_MAX)
    for noun in (nodes, calls, recording_control, alarms, route, fleet, phones):
        app.add_routes(noun.routes(config, the_fleet))
    return app


@web.middleware
async def _operators(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method != "GET":
        require_fleet(request)
    return await handler(request)
