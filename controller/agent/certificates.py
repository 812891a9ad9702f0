"""Brings renewed certificates from pki.folder to the PBX, and has it show them without a restart.

Only where the config's pki.folder is on this machine and the node was rendered here; elsewhere the
files come by `pbxctl render` and whoever copies them. What each part does with connections that are
up was measured: Asterisk, FreeSWITCH, Kamailio and stunnel keep them, new ones see the new files.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from controller.agent.kamcmd import kamcmd
from controller.agent.steps import keep_in_step, text_of
from controller.config import Config
from controller.errors import ConfigError
from controller.fleet.files import NodeFiles
from controller.fleet.functions import Fleet
from controller.model import Kind
from controller.render.certificates import tls_files
from controller.render.file import File
from controller.render.files import folder_of
from controller.render.write import replace

LOOK_S = 5.0

_log = logging.getLogger(__name__)


class CertificateFiles:
    """Those of one node or edge. `run` ends only when cancelled."""

    def __init__(self, config: Config, fleet: Fleet, name: str, look_s: float = LOOK_S) -> None:
        self._config = config
        self._marks = NodeFiles(fleet, name)
        self._name = name
        self._look_s = look_s
        self._folder = folder_of(config, name)
        #: files were written and not every part has read them yet
        self._unread = False

    async def run(self) -> None:
        await keep_in_step(f"certificates of {self._name}", self._folder, self._step, self._look_s)

    async def _step(self) -> None:
        files = await asyncio.to_thread(self._wanted)
        if not files:
            return
        self._unread = await asyncio.to_thread(self._write, files) or self._unread
        node = self._config.nodes.get(self._name)
        if node is None:
            if not self._unread:
                return
            await kamcmd(self._folder / "ctl", "tls.reload")
        else:
            content = _content(files)
            # Also what an agent before us wrote and did not live to have read.
            if not self._unread and await self._marks.runs_on("certificates") == content:
                return
            if node.kind is Kind.ASTERISK:
                # It looks at the manager's certificate only when a file of its config is new.
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._folder / "pbxctl-manager.conf")
            await self._marks.have_read("certificates", content)
        _hang_up_stunnel(self._folder / "pbxctl-stunnel.pid")
        self._unread = False
        _log.info("certificates of %s: renewed", self._name)

    def _wanted(self) -> dict[str, File]:
        if not (self._folder / "tls").is_dir():
            return {}  # not rendered here
        try:
            return tls_files(self._config, self._name)
        except ConfigError:
            return {}  # pki.folder is elsewhere

    def _write(self, files: Mapping[str, File]) -> bool:
        """Whether any file is another one now. Keys before certificates, as the store has it."""
        changed = [p for p, file in files.items() if text_of(self._folder / p) != file.text]
        for path in sorted(changed, key=lambda p: not p.endswith(".key")):
            replace(self._folder / path, files[path].text, files[path].mode)
        return bool(changed)


def _content(files: Mapping[str, File]) -> str:
    """Names what the files hold; says nothing of the keys, which have 256 random bits."""
    whole = "\0".join(f"{path}\0{files[path].text}" for path in sorted(files))
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _hang_up_stunnel(pid_file: Path) -> None:
    """SIGHUP: stunnel reads its files again. A stale file may name a stranger's process."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        if Path(f"/proc/{pid}/comm").read_text().startswith("stunnel"):
            os.kill(pid, signal.SIGHUP)
