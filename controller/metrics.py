"""What the roles' metrics have in common: a registry with process and build facts, and a server.

Port rule (config.MetricsConfig): a role listens on its port; when another process has that, on
the first free one from ten above it.
"""

from __future__ import annotations

import errno
import logging
import platform
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from controller.config import Config
from controller.errors import PbxctlError
from controller.version import VERSION

log = logging.getLogger(__name__)
SECOND_FROM = 10
PORTS_TRIED = 50
#: offset of each role's port from metrics.first_port
PORT_OF_ROLE = {"driver": 0, "steward": 1, "gate": 2, "agent": 3, "vault": 4}


def make_registry(role: str) -> CollectorRegistry:
    """A registry that already tells of the process and of which build it runs."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    build = Gauge(
        "pbxctl_build_info",
        "Always 1; the labels say which build runs in which role.",
        ["version", "role", "python"],
        registry=registry,
    )
    build.labels(VERSION, role, platform.python_version()).set(1)
    return registry


@dataclass
class MetricsServer:
    """A running server; port is where it really listens."""

    host: str
    port: int
    runner: web.AppRunner

    async def close(self) -> None:
        await self.runner.cleanup()


async def serve_role(
    config: Config,
    role: str,
    registry: CollectorRegistry,
    refresh: Callable[[], Awaitable[None]] | None = None,
) -> MetricsServer:
    """`serve_metrics` where the config has it for `role`; first_port 0 takes any free port."""
    first = config.metrics.first_port
    port = first + PORT_OF_ROLE[role] if first else 0
    return await serve_metrics(registry, config.metrics.host, port, refresh)


async def serve_metrics(
    registry: CollectorRegistry,
    host: str,
    port: int,
    refresh: Callable[[], Awaitable[None]] | None = None,
) -> MetricsServer:
    """Serves the registry at http://host:port/metrics until closed; port 0 takes any free one.

    refresh: awaited before each answer, for collectors that show what others know; it must not
    raise. Raises PbxctlError when none of the ports can be had.
    """

    async def answer(_: web.Request) -> web.Response:
        if refresh:
            await refresh()
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    ports = [port, *range(port + SECOND_FROM, port + SECOND_FROM + PORTS_TRIED)] if port else [0]
    for candidate in ports:
        try:
            await web.TCPSite(runner, host, candidate).start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            await runner.cleanup()
            raise PbxctlError(
                f"metrics cannot be served on {host}:{candidate}: {error.strerror}",
                hint="metrics.host must be this machine's, metrics.first_port above 1023",
            ) from error
        bound = int(runner.addresses[0][1])
        log.info("metrics on http://%s:%d/metrics", host, bound)
        return MetricsServer(host, bound, runner)
    await runner.cleanup()
    raise PbxctlError(
        f"no free port for metrics on {host}: {ports[0]} and {ports[1]} to {ports[-1]} are taken",
        hint="set metrics.first_port to a free range",
    )
