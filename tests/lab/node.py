"""A program of the lab with an address, and the ways to break it.

Everything here blocks; from asyncio use `await asyncio.to_thread(node.restart)`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from tests.lab import sweep
from tests.lab.run import LabError, Run
from tests.lab.until import until

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0


class NodeFailed(LabError):
    """The program ended at its start or never became ready; has the end of its log."""


class Node(ABC):
    """One running program. `kill`, `freeze`, `cut` break it; `restart`, `thaw`, `heal` mend it.

    folder: its own, emptied by nothing but the end of the lab, so a restart finds its files.
    log: its stdout and stderr.
    """

    def __init__(self, run: Run, name: str, address: str) -> None:
        self.run = run
        self.name = name
        self.address = address
        self.folder = run.folder / name
        self.folder.mkdir()
        self.log = self.folder / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.frozen = False
        self.environment: dict[str, str] = {}

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def is_ready(self) -> bool:
        """One quick look (below 0.5 s), no waiting: does it do its work?"""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise NodeFailed(f"{self.name} was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Starts it and does not wait; `wait_ready` does. So that several start together."""
        if self.running:
            raise NodeFailed(f"{self.name} runs already")
        self._process = self.run.spawn(
            self.command(), log=self.log, cwd=self.folder, environment=self.environment
        )
        self.frozen = False

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        def ready_or_dead() -> bool:
            return not self.running or self.is_ready()

        try:
            until(ready_or_dead, timeout_s, f"{self.name} ready")
        except TimeoutError as late:
            raise NodeFailed(f"{late}\n{self.log_end()}") from None
        if not self.running:
            code = self._process.returncode if self._process else None
            raise NodeFailed(f"{self.name} ended at its start with {code}\n{self.log_end()}")

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def kill(self) -> None:
        """SIGKILL to all of it, as a crash or the OOM killer does; returns when it is gone."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait()
        session = self._process.pid
        until(
            lambda: all(process.session != session for process in sweep.living()),
            STOP_TIMEOUT_S,
            f"all of {self.name} gone",
        )

    def stop(self) -> None:
        """SIGTERM as an operator's stop; SIGKILL if it takes more than 5 s."""
        if self.frozen:
            self.thaw()
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self.kill()

    def restart(self) -> None:
        """Ends it hard if it still runs, and starts it again in the same place."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stops every process of it where it stands: sockets stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)
        until(
            lambda: (now := sweep.look_up(self.pid)) and now.state in "Tt",
            STOP_TIMEOUT_S,
            f"{self.name} frozen",
        )
        self.frozen = True

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)
        self.frozen = False

    def cut(self) -> None:
        """Every packet from and to its address is lost. Not cut: what it sends from 127.0.0.1,
        as an AGI or HTTP request to an agent on the same machine does."""
        self.run.cut(self.address)

    def heal(self) -> None:
        self.run.heal(self.address)

    def log_end(self, lines: int = 25) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def write_secret(path: Path, text: str) -> None:
    """Writes a file that its owner alone can read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
