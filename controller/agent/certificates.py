"""Brings renewed certificates from pki.folder to the PBX, and has it show them without a restart.

Only where the config's pki.folder is on this machine and the node was rendered here; elsewhere the
files come by `pbxctl render` and whoever copies them. What each part does with connections that are
up was measured: Asterisk, FreeSWITCH, Kamailio and stunnel keep them, new ones see the new files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path

from controller.agent.kamcmd import kamcmd
from controller.config import Config
from controller.errors import ConfigError, PbxctlError
from controller.fleet import commands
from controller.fleet.functions import Fleet
from controller.model import Kind
from controller.render.certificates import tls_files
from controller.render.files import folder_of
from controller.render.write import replace

LOOK_S = 5.0
RELOAD_S = 6.0  # the driver's own deadline is 5 s
#: what of a PBX reads certificates, by kind (pbx/asterisk.py, pbx/freeswitch_text.py)
MODULES = {Kind.ASTERISK: ("pjsip", "manager"), Kind.FREESWITCH: ("certificates",)}

_log = logging.getLogger(__name__)


class CertificateFiles:
    """Those of one node or edge. `run` ends only when cancelled."""

    def __init__(self, config: Config, fleet: Fleet, name: str) -> None:
        self._config = config
        self._fleet = fleet
        self._name = name
        self._folder = folder_of(config, name)
        self._problem = ""
        #: files were written and not every part has read them yet
        self._unread = False

    async def run(self) -> None:
        while True:
            problem = ""
            try:
                await self._step()
            except PbxctlError as error:
                problem = error.message
            except OSError as error:
                problem = f"{error.filename or self._folder} cannot be written: {error.strerror}"
            if problem and problem != self._problem:
                _log.warning("certificates of %s: %s", self._name, problem)
            self._problem = problem
            await asyncio.sleep(LOOK_S)

    async def _step(self) -> None:
        written = await asyncio.to_thread(self._write)
        if not (written or self._unread):
            return
        self._unread = True
        await self._reload()
        self._unread = False
        _log.info("certificates of %s: renewed", self._name)

    def _write(self) -> bool:
        """Whether any file is another one now. Keys before certificates, as the store has it."""
        if not (self._folder / "tls").is_dir():
            return False  # not rendered here
        try:
            files = tls_files(self._config, self._name)
        except ConfigError:
            return False  # pki.folder is elsewhere
        changed = [p for p, file in files.items() if _text(self._folder / p) != file.text]
        for path in sorted(changed, key=lambda p: not p.endswith(".key")):
            replace(self._folder / path, files[path].text, files[path].mode)
        return bool(changed)

    async def _reload(self) -> None:
        node = self._config.nodes.get(self._name)
        if node is None:
            await kamcmd(self._folder / "ctl", "tls.reload")
        elif node.kind is Kind.ASTERISK:
            # It looks at the manager's certificate only when a file of its config is new.
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._folder / "pbxctl-manager.conf")
        for module in MODULES[node.kind] if node else ():
            result = await commands.send(self._fleet, self._name, commands.Reload(module), RELOAD_S)
            if result.state != "done":
                raise PbxctlError(f"written, but not read by the PBX yet: {result.message}")
        _hang_up_stunnel(self._folder / "pbxctl-stunnel.pid")


def _hang_up_stunnel(pid_file: Path) -> None:
    """SIGHUP: stunnel reads its files again. A stale file may name a stranger's process."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        if Path(f"/proc/{pid}/comm").read_text().startswith("stunnel"):
            os.kill(pid, signal.SIGHUP)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
