"""Keeps each node's file of phones in step with what the steward published.

For each node here, in a loop of its own: compare versions, write the file (whole or not at all),
have the node's driver make the PBX read it, acknowledge. The acknowledged versions are those
that the PBX runs on; whatever stands between, a full disk, a lost link, an absent Redis, leaves the
old ones standing, is told in the acknowledgement where Redis can be reached, and is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from pathlib import Path

from controller.config import Config
from controller.errors import PbxctlError
from controller.fleet.functions import Fleet
from controller.fleet.phones import FleetPhones, NodePhones, PublishedPhone
from controller.media.phones import regions_held_by
from controller.render.files import folder_of
from controller.render.phones import phones_file, phones_in, phones_path
from controller.render.write import replace

LOOK_S = 0.4
RETRY_FIRST_S = 1.0
RETRY_MAX_S = 10.0
READ_S = 7.0  # the driver's own deadline is 5 s
POLL_S = 0.1

_log = logging.getLogger(__name__)


class PhoneFiles:
    """One node's file. `run` ends only when cancelled."""

    def __init__(self, config: Config, fleet: Fleet, node: str) -> None:
        self._config = config
        self._phones = FleetPhones(fleet)
        self._node = node
        self._regions = regions_held_by(config, node)
        self._path: Path = folder_of(config, node) / phones_path(config, node)
        self._problem = ""
        #: a file was written and its reload did not succeed yet
        self._unread = False
        #: the phones that the file has, also while Redis is away
        self.names = phones_in(_text(self._path))

    async def run(self) -> None:
        pause_s = RETRY_FIRST_S
        while True:
            problem = ""
            try:
                await self._step()
            except PbxctlError as error:
                problem = error.message
            except OSError as error:
                problem = f"{self._path} cannot be written: {error.strerror}"
            if problem and problem != self._problem:
                _log.warning("phones of %s: %s", self._node, problem)
            self._problem = problem
            pause_s = min(2 * pause_s, RETRY_MAX_S) if problem else RETRY_FIRST_S
            await asyncio.sleep(
                (pause_s if problem else LOOK_S) * random.uniform(0.8, 1.2)  # noqa: S311
            )

    async def _step(self) -> None:
        published = await self._phones.published()
        wanted = {r: published[r] for r in self._regions if r in published}
        runs_on = (await self._phones.acknowledged()).get(self._node, NodePhones())
        if not wanted or (runs_on.versions == wanted and not runs_on.problem and not self._unread):
            return
        versions: dict[str, int] = {}
        phones: list[PublishedPhone] = []
        for region in wanted:
            if found := await self._phones.of_region(region):
                versions[region] = found[0]
                phones += found[1]
        try:
            await self._put(phones, versions)
        except PbxctlError as error:
            await self._phones.acknowledge(self._node, NodePhones(runs_on.versions, error.message))
            raise
        except OSError as error:
            problem = f"the file of phones cannot be written: {error.strerror}"
            await self._phones.acknowledge(self._node, NodePhones(runs_on.versions, problem))
            raise
        await self._phones.acknowledge(self._node, NodePhones(versions))
        _log.info("phones of %s: %d, versions %s", self._node, len(phones), versions)

    async def _put(self, phones: list[PublishedPhone], versions: dict[str, int]) -> None:
        text = phones_file(self._config, self._node, phones, versions)
        self._unread = True
        await asyncio.to_thread(replace, self._path, text, 0o600)
        self.names = phones_in(text)
        mark = secrets.token_hex(8)
        await self._phones.file_written(self._node, mark)
        deadline_s = asyncio.get_running_loop().time() + READ_S
        problem = "no driver has the node"
        while asyncio.get_running_loop().time() < deadline_s:
            read, problem_then = await self._phones.file_read(self._node)
            if read == mark:
                problem = problem_then
                break
            await asyncio.sleep(POLL_S)
        if problem:
            raise PbxctlError(f"written, but not read by the PBX yet: {problem}")
        self._unread = False


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
