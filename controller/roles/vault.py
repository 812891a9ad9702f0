"""The vault: takes sealed recordings from agents, keeps their keys, opens them for those allowed.

Two listeners, so that neither side can pass for the other: agents show their node's certificate of
the authority `sip` at vault.ingest, people one of `people` at vault.listen. With duties `ingest`
there is no key in the process and no listener for people; with `keep` there are no agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging

from aiohttp import web

from controller import metrics
from controller.api import journal
from controller.api.ingest import make_app as make_ingest
from controller.api.serving import follow, listen_tls
from controller.config import Config
from controller.config_vault import VaultConfig
from controller.errors import ConfigError
from controller.pki.contexts import server
from controller.pki.wanted import AuthorityName
from controller.vault.bodies import Bodies
from controller.vault.custody import public_keys_path
from controller.vault.ingest import Ingest, Limits
from controller.vault.intake import open_intake
from controller.vault.keys.published import published
from controller.vault.metrics import REGISTRY
from controller.vault.store import open_store

log = logging.getLogger(__name__)
DRAIN_S = 5.0


async def run(config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set, then lets requests under way end.

    Raises ConfigError without a vault section, PbxctlError when store, keys or ports cannot be had.
    """
    vault = config.vault
    if vault is None:
        raise ConfigError(
            "there is no vault section",
            file=config.source,
            key="vault",
            hint="`vault: {}` keeps recordings in state_dir",
        )
    async with contextlib.AsyncExitStack() as ends:
        journal.to_stderr()
        bodies = Bodies(await asyncio.to_thread(open_store, config))
        if vault.duties != "keep":
            await _take(config, vault, bodies, ends)
        served = await metrics.serve_role(config, "vault", REGISTRY)
        ends.push_async_callback(served.close)
        await stop.wait()


async def _take(
    config: Config, vault: VaultConfig, bodies: Bodies, ends: contextlib.AsyncExitStack
) -> None:
    ingest = Ingest(bodies, await asyncio.to_thread(open_intake, config), limits_of(config, vault))
    ends.callback(ingest.close)
    app = make_ingest(
        ingest, frozenset(config.nodes), functools.partial(published, public_keys_path(config))
    )
    await _serve(config, app, vault.ingest, "vault.ingest", "sip", ends)


def limits_of(config: Config, vault: VaultConfig) -> Limits:
    return Limits(
        frozenset(vault.tenants or (config.fleet,)),
        vault.recording_max_mb << 20,
        vault.free_min_mb << 20,
    )


async def _serve(
    config: Config,
    app: web.Application,
    address: str,
    key: str,
    clients: AuthorityName,
    ends: contextlib.AsyncExitStack,
) -> None:
    identity = server(config, "vault", clients=clients)
    task = asyncio.create_task(follow(identity))
    ends.callback(task.cancel)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=DRAIN_S,
        handler_cancellation=False,  # what is being stored is stored to its end
    )
    await runner.setup()
    ends.push_async_callback(runner.cleanup)
    await listen_tls(runner, address, identity.context, key)
