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
from collections.abc import Callable

from aiohttp import web

from controller import metrics, notify
from controller.api import journal, recordings
from controller.api import vault as vault_noun
from controller.api.border import border
from controller.api.ingest import make_app as make_ingest
from controller.api.recordings import Desk
from controller.api.serving import follow, listen_tls
from controller.config import Config
from controller.config_vault import VaultConfig
from controller.errors import ConfigError
from controller.pki.contexts import server
from controller.pki.wanted import AuthorityName
from controller.records.database import open_database
from controller.records.reads import ReadingLog
from controller.records.recordings import RecordingIndex
from controller.roles.keeping import Keeping
from controller.vault.bodies import Bodies
from controller.vault.custody import open_custody, public_keys_path
from controller.vault.ingest import Ingest, Limits
from controller.vault.intake import Intake, open_intake
from controller.vault.keeper import Keeper, Rules
from controller.vault.keys.published import published
from controller.vault.metrics import REGISTRY
from controller.vault.reading import Reading
from controller.vault.store import open_store

log = logging.getLogger(__name__)
DRAIN_S = 5.0
BODY_BYTES_MAX = 64 << 10


async def run(config: Config, stop: asyncio.Event) -> None:
    """Serves until `stop` is set, then lets requests under way end.

    Raises ConfigError without a vault section, PbxctlError when store, keys or ports cannot be had.
    """
    vault = config.vault
    if vault is None:
        raise ConfigError(
            "is missing",
            file=config.source,
            key="vault",
            hint="as in vault: {keys: {provider: file, passphrase_file: secrets/vault}}",
        )
    async with contextlib.AsyncExitStack() as ends:
        journal.to_stderr()
        bodies = Bodies(await asyncio.to_thread(open_store, config))
        intake = await asyncio.to_thread(open_intake, config)
        keeping = None
        if vault.duties != "ingest":
            keeping = await _keep(config, vault, bodies, intake, ends)
        if vault.duties != "keep":
            ended = keeping.ended if keeping else _nobody
            await _take(config, vault, bodies, intake, ended, ends)
        served = await metrics.serve_role(config, "vault", REGISTRY)
        ends.push_async_callback(served.close)
        notify.ready()
        await (keeping.run(stop) if keeping else stop.wait())


async def _take(
    config: Config,
    vault: VaultConfig,
    bodies: Bodies,
    intake: Intake,
    ended: Callable[[str], None],
    ends: contextlib.AsyncExitStack,
) -> None:
    ingest = Ingest(bodies, intake, limits_of(config, vault), ended)
    ends.callback(ingest.close)
    keys = functools.partial(published, public_keys_path(config))
    app = make_ingest(ingest, frozenset(config.nodes), keys)
    await _serve(config, app, vault.ingest, "vault.ingest", "sip", ends)


async def _keep(
    config: Config,
    vault: VaultConfig,
    bodies: Bodies,
    intake: Intake,
    ends: contextlib.AsyncExitStack,
) -> Keeping:
    # Never closed: a thread may be writing a slot until the process ends, and the number of a
    # closed file may be another file's by then.
    custody = await asyncio.to_thread(open_custody, config)
    database = await asyncio.to_thread(open_database, config)
    ends.callback(database.close)
    index = RecordingIndex(database)
    rules = Rules(
        config.fleet, vault.retention_days, vault.retention_max_days, vault.give_up_h * 3600
    )
    keeper = Keeper(bodies, intake, custody, index, rules)
    desk = Desk(index, Reading(bodies, custody), keeper, custody, ReadingLog(database))
    app = web.Application(middlewares=[border("vault")], client_max_size=BODY_BYTES_MAX)
    app.add_routes(recordings.routes(desk))
    app.add_routes(vault_noun.routes(desk, bodies, intake))
    await _serve(config, app, vault.listen, "vault.listen", "people", ends)
    return Keeping(keeper, custody, index, intake)


def limits_of(config: Config, vault: VaultConfig) -> Limits:
    recorded = config.recordings.tenant if config.recordings else None
    return Limits(
        frozenset(vault.tenants or (recorded or config.fleet,)),
        vault.recording_max_mb << 20,
        vault.free_min_mb << 20,
    )


def _nobody(_: str) -> None:
    """With duties `ingest` the keeper finds in the store what has ended."""


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
