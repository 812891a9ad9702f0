"""Runs one role in this process until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Collection

from controller import notify
from controller.config import Config
from controller.errors import UsageError
from controller.log import set_up_logging

ROLES = ("driver", "steward", "gate", "agent", "vault")


def run(role: str, config: Config, names: Collection[str] | None = None) -> int:
    """Runs `role` to its end; the exit code. names: the nodes an agent serves, None for all.

    Raises PbxctlError when the role cannot start.
    """
    set_up_logging(role)
    asyncio.run(_until_signal(_starter(role, config, names)))
    return 0


def _starter(
    role: str, config: Config, names: Collection[str] | None
) -> Callable[[asyncio.Event], Awaitable[None]]:
    # Imported here: each process carries only what its role needs.
    if role == "driver":
        from controller.roles.driver import run as run_driver

        return lambda stop: run_driver(config, stop)
    if role == "steward":
        from controller.roles.steward import run as run_steward

        return lambda stop: run_steward(config, stop)
    if role == "gate":
        from controller.roles.gate import run as run_gate

        return lambda stop: run_gate(config, stop)
    if role == "agent":
        from controller.roles.agent import run as run_agent

        return lambda stop: run_agent(config, names, stop)
    if role == "vault":
        from controller.roles.vault import run as run_vault

        return lambda stop: run_vault(config, stop)
    raise UsageError(f"there is no role {role!r}", hint=f"one of: {', '.join(ROLES)}")


async def _until_signal(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch = asyncio.create_task(notify.alive(stop))
    try:
        await work(stop)
    finally:
        watch.cancel()
