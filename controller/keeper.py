"""Keeps one program running: starts it again when it ends, kills it when its loop hangs.

A role tells by sd_notify(3), on a socket of its own, that it is there and alive, as it would tell
systemd (controller/notify.py).
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from controller import notify

RESTART_FIRST_S = 0.1
RESTART_MAX_S = 5.0
HEALTHY_S = 10.0
STOP_S = 6.0
HANG_S = 30.0
_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


class Keeper(asyncio.DatagramProtocol):
    """Keeps one program running until `end`. With `listen` it is told how the program stands."""

    def __init__(self, name: str, command: Sequence[str], hang_s: float = HANG_S) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self._command = command
        self._hang_s = hang_s
        self._environment = notify.without(os.environ)
        self._socket: Path | None = None
        self._heard_s = 0.0
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    async def listen(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, str(path), family=socket.AF_UNIX)
        self._socket = path
        self._environment |= {
            "NOTIFY_SOCKET": str(path),
            "WATCHDOG_USEC": str(int(self._hang_s * 1e6)),
        }

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._heard_s = time.monotonic()
        if data == b"READY=1":
            self.ready.set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def _keep(self) -> None:
        pause_s = RESTART_FIRST_S
        while True:
            began = time.monotonic()
            try:
                end = f"ended with {await self._run()}"
            except (OSError, subprocess.SubprocessError) as error:  # no memory, or its file is away
                end = f"cannot be started: {error}"
            if time.monotonic() - began > HEALTHY_S:
                pause_s = RESTART_FIRST_S
            log.warning("%s %s; starts again in %.1f s", self.name, end, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_MAX_S)

    async def _run(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            preexec_fn=_die_with_parent,
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environment,
        )
        log.info("%s runs, pid %d", self.name, self._process.pid)
        return await self._ended(self._process)

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """The exit code, also of one that was killed because it said nothing for hang_s."""
        self._heard_s = time.monotonic()
        gone = asyncio.create_task(process.wait())
        while self._socket and not gone.done():
            left_s = self._heard_s + self._hang_s - time.monotonic()
            if left_s <= 0:
                log.warning("%s hangs: no word for %g s; it is killed", self.name, self._hang_s)
                process.kill()
                break
            await asyncio.wait([gone], timeout=left_s)
        return await gone

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
