"""Commands to the Kamailio of this machine, by its control socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

from controller.errors import PbxctlError

DEADLINE_S = 3.0


async def kamcmd(socket: Path, command: str) -> None:
    """Runs one command; PbxctlError when it is not done. A Kamailio that does not run needs none:
    it reads its files when it starts."""
    if not await asyncio.to_thread(socket.exists):
        return
    try:
        process = await asyncio.create_subprocess_exec(
            "kamcmd", "-s", f"unix:{socket}", command,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        raise PbxctlError(f"{command} is not done, kamcmd does not start: {error}") from error
    try:
        async with asyncio.timeout(DEADLINE_S):
            told, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise PbxctlError(f"Kamailio did not do {command} within {DEADLINE_S:g} s") from None
    answer = told.decode("utf-8", "replace").strip()
    # It ends with 0 also when Kamailio refuses.
    if process.returncode or answer.startswith("error:"):
        raise PbxctlError(f"{command} is not done: kamcmd answered {answer[:200]!r}")
