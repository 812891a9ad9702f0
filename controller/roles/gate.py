"""The gate: the HTTP API for people and machines, and the metrics of the fleet as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl

from aiohttp import web

from controller import metrics, notify
from controller.api import journal
from controller.api.app import make_app
from controller.api.fleet_metrics import FleetCollector
from controller.api.listen import server_tls, socket_path, unix_socket
from controller.api.serving import follow, listen_tls
from controller.config import Config, make_state_dir
from controller.fleet.functions import Fleet, connect
from controller.pki.contexts import server
from controller.roles.phone_publisher import PhonePublisher
from controller.tasks import together

log = logging.getLogger(__name__)
DRAIN_S = 3.0


async def run(config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set, then lets requests under way end.

    Redis may be away: the gate answers FleetUnreachable then, and goes on. Raises PbxctlError
    when it cannot listen.
    """
    async with contextlib.AsyncExitStack() as ends:
        journal.to_stderr()
        fleet = Fleet(connect(config, "gate"), config.fleet)
        ends.push_async_callback(fleet.close)
        await _serve(config, fleet, ends)
        await _serve_metrics(config, fleet, ends)
        notify.ready()
        await together(stop.wait(), PhonePublisher(config, fleet).run())


async def _serve(config: Config, fleet: Fleet, ends: contextlib.AsyncExitStack) -> None:
    tls = _tls(config, ends)
    runner = web.AppRunner(
        make_app(config, fleet),
        access_log=None,
        shutdown_timeout=DRAIN_S,
        handler_cancellation=False,  # a change that has begun is carried through
    )
    await runner.setup()
    ends.push_async_callback(runner.cleanup)
    if tls is not None:
        await listen_tls(runner, config.gate.listen, tls, "gate.listen")
    # Last, so that whoever sees the socket finds the gate whole.
    make_state_dir(config)
    path = socket_path(config)
    await web.SockSite(runner, unix_socket(path)).start()
    ends.callback(path.unlink, missing_ok=True)
    log.info("gate on %s", path)


def _tls(config: Config, ends: contextlib.AsyncExitStack) -> ssl.SSLContext | None:
    """None without a listener on the network. Of the operator's files, or else of the fleet's."""
    if config.gate.listen == "unix":
        return None
    if config.gate.tls:
        return server_tls(config, config.gate.tls)
    identity = server(config, "gate", clients="people")
    task = asyncio.create_task(follow(identity))
    ends.callback(task.cancel)
    return identity.context


async def _serve_metrics(config: Config, fleet: Fleet, ends: contextlib.AsyncExitStack) -> None:
    registry = metrics.make_registry("gate")
    collector = FleetCollector(config, fleet)
    registry.register(collector)
    server = await metrics.serve_role(config, "gate", registry, collector.refresh)
    ends.push_async_callback(server.close)
