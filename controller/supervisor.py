"""`pbxctl up`: all roles on one machine, and a private redis-server when the config names none.

A role that ends is started again within a second, more slowly while it keeps failing at its
start; one whose loop hangs is killed and started again (keeper.py). The end of the supervisor, by
whatever way, is the end of its roles (PR_SET_PDEATHSIG); calls on the PBXs go on.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from controller import notify
from controller.config import Config, make_state_dir, read_secret
from controller.errors import ConfigError, PbxctlError, UsageError
from controller.fleet.acl import USERS
from controller.keeper import Keeper
from controller.log import set_up_logging

# `up` says that it is ready when all roles are; one that cannot start must not hold the others up.
ALL_READY_S = 15.0
REDIS_READY_S = 10.0

LONGEST_SOCKET = "steward.up"
SOCKET_BYTES_MAX = 107  # Linux unix(7)

log = logging.getLogger(__name__)


def up(config: Config) -> int:
    """Runs until SIGTERM or SIGINT, then stops the roles, Redis last. The exit code.

    Raises UsageError when another `pbxctl up` has the same state_dir, the state_dir cannot be used,
    a role's own password cannot be read, or redis-server is missing.
    """
    set_up_logging("up")
    folder = make_state_dir(config)
    if len(os.fsencode(folder / LONGEST_SOCKET)) > SOCKET_BYTES_MAX:
        raise ConfigError(
            f"{folder} is too long for the names of the sockets in it",
            file=config.source, key="state_dir", hint="choose a shorter one",
        )  # fmt: skip
    _check_roles(config)
    lock = (folder / "up.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(
            f"another `pbxctl up` runs on {config.state_path}",
            hint="stop it first, or give this fleet a state_dir of its own",
        ) from error
    with lock:
        return asyncio.run(_main(config))


def _check_roles(config: Config) -> None:
    """That they have what they would else end without, each time that they are started."""
    if config.vault and config.vault.keys is None and config.vault.duties != "ingest":
        raise ConfigError(
            "keys is missing",
            file=config.source,
            key="vault",
            hint="as in keys: {provider: file, passphrase_file: secrets/vault}",
        )
    files = [config.redis.password_file, config.records.url and config.records.password_file]
    if users := config.redis.users:
        files += [f"{users}/{role}" for role in roles_of(config) if role in USERS]
    for name in files:
        if name:
            read_secret(config.path(name))


async def _main(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    keepers = []
    redis = None
    if config.redis.url is None:
        redis = Keeper("redis", redis_command(config))
        redis.start()
        try:
            await _redis_ready(config.state_path / "redis.sock", stop)
        except PbxctlError:
            await redis.end()
            raise
    for role in roles_of(config):
        keeper = Keeper(role, [sys.executable, "-m", "controller.cli", "--config", config.source,
                                "run", role])  # fmt: skip
        await keeper.listen(config.state_path / f"{role}.up")
        keeper.start()
        keepers.append(keeper)
    telling = asyncio.create_task(_tell_ready(keepers))
    await notify.alive(stop)
    telling.cancel()
    log.info("stops; calls on the nodes go on")
    await asyncio.gather(*(keeper.end() for keeper in keepers))
    if redis:
        await redis.end()
    return 0


async def _tell_ready(keepers: Sequence[Keeper]) -> None:
    waits = [asyncio.create_task(keeper.ready.wait(), name=keeper.name) for keeper in keepers]
    _, late = await asyncio.wait(waits, timeout=ALL_READY_S)
    for wait in late:
        log.warning("%s is not ready after %.0f s; the others run", wait.get_name(), ALL_READY_S)
        wait.cancel()
    notify.ready()


def roles_of(config: Config) -> list[str]:
    """The roles this fleet needs: an agent only where a dialplan or an edge asks one, a vault
    only where the config has its section."""
    edges = config.edges or any(node.edge for node in config.nodes.values())
    return ["driver", "steward", "gate", *(["agent"] if edges else []),
            *(["vault"] if config.vault else [])]  # fmt: skip


def redis_command(config: Config) -> list[str]:
    """A private server: no port, a socket for our user alone, data kept across a restart."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise UsageError(
            "redis-server is not installed",
            hint="apt-get install redis-server, or name a Redis by redis.url in the config",
        )
    folder = config.state_path / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    return [
        binary, "--port", "0", "--unixsocket", str(config.state_path / "redis.sock"),
        "--unixsocketperm", "600", "--dir", str(folder), "--save", "", "--appendonly", "yes",
        "--appendfsync", "everysec", "--maxmemory-policy", "noeviction", "--loglevel", "warning",
        "--busy-reply-threshold", "0",  # why: dialplans/redis/pbxctl-redis.conf.j2
    ]  # fmt: skip


async def _redis_ready(socket: Path, stop: asyncio.Event) -> None:
    deadline = time.monotonic() + REDIS_READY_S
    while not stop.is_set():
        try:
            reader, writer = await asyncio.open_unix_connection(str(socket))
            writer.write(b"PING\r\n")
            async with asyncio.timeout(1):
                answer = await reader.readline()
            writer.close()
            if answer == b"+PONG\r\n":
                return
        except (OSError, TimeoutError):
            pass
        if time.monotonic() > deadline:
            raise PbxctlError(
                f"the private redis-server is not ready after {REDIS_READY_S:.0f} s",
                hint="its log stands above; is the disk full?",
            )
        await asyncio.sleep(0.05)
