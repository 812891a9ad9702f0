"""`pbxctl up`: all roles on one machine, and a private redis-server when the config names none.

A role that ends is started again within a second, more slowly while it keeps failing at its
start. The end of the supervisor, by whatever way, is the end of its roles (PR_SET_PDEATHSIG);
calls on the PBXs go on.
"""

from __future__ import annotations

import asyncio
import ctypes
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
from controller.config import Config
from controller.errors import PbxctlError, UsageError
from controller.log import set_up_logging

RESTART_FIRST_S = 0.1
RESTART_MAX_S = 5.0
HEALTHY_S = 10.0
STOP_S = 6.0
REDIS_READY_S = 10.0
_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


def up(config: Config) -> int:
    """Runs until SIGTERM or SIGINT, then stops the roles, Redis last. The exit code.

    Raises UsageError when another `pbxctl up` has the same state_dir, or redis-server is missing.
    """
    set_up_logging("up")
    config.state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = (config.state_path / "up.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(
            f"another `pbxctl up` runs on {config.state_path}",
            hint="stop it first, or give this fleet a state_dir of its own",
        ) from error
    with lock:
        return asyncio.run(_main(config))


async def _main(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    keepers = []
    redis = None
    if config.redis.url is None:
        redis = _Keeper("redis", redis_command(config))
        redis.start()
        try:
            await _redis_ready(config.state_path / "redis.sock", stop)
        except PbxctlError:
            await redis.end()
            raise
    for role in roles_of(config):
        keeper = _Keeper(role, [sys.executable, "-m", "controller.cli", "--config", config.source,
                                "run", role])  # fmt: skip
        keeper.start()
        keepers.append(keeper)
    notify.ready()
    await notify.alive(stop)
    log.info("stops; calls on the nodes go on")
    await asyncio.gather(*(keeper.end() for keeper in keepers))
    if redis:
        await redis.end()
    return 0


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


class _Keeper:
    """Keeps one program running until `end`."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def _keep(self) -> None:
        pause_s = RESTART_FIRST_S
        while True:
            began = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                preexec_fn=_die_with_parent,
                stdin=asyncio.subprocess.DEVNULL,
                env=notify.without(os.environ),
            )
            log.info("%s runs, pid %d", self.name, self._process.pid)
            code = await self._process.wait()
            if time.monotonic() - began > HEALTHY_S:
                pause_s = RESTART_FIRST_S
            log.warning("%s ended with %d; starts again in %.1f s", self.name, code, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_MAX_S)

    async def end(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            log.warning("%s does not stop; it is killed", self.name)
            process.kill()
            await process.wait()


def _die_with_parent() -> None:
    # Own session: Ctrl-C reaches the supervisor alone, which then stops all in order.
    os.setsid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
