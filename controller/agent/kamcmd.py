"""Commands to the Kamailio of this machine, by its control socket."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

DEADLINE_S = 3.0

_log = logging.getLogger(__name__)


async def kamcmd(socket: Path, command: str) -> None:
    """Runs one command; what goes wrong is logged. A Kamailio that does not run needs none: it
    reads its files when it starts."""
    if not await asyncio.to_thread(socket.exists):
        return
    try:
        process = await asyncio.create_subprocess_exec(
            "kamcmd", "-s", f"unix:{socket}", command,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        _log.warning("%s is not done, kamcmd does not start: %s", command, error)
        return
    try:
        async with asyncio.timeout(DEADLINE_S):
            if await process.wait():
                _log.warning("%s is not done: kamcmd answered %s", command, process.returncode)
    except TimeoutError:
        _log.warning("Kamailio did not do %s within %s s", command, DEADLINE_S)
        process.kill()
        await process.wait()
