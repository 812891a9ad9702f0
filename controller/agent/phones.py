"""Keeps each node's file of phones in step with what the steward published.

For each node here, in a loop of its own: compare versions, write the file (whole or not at all),
have the node's driver make the PBX read it, acknowledge. The acknowledged versions are those
that the PBX runs on; whatever stands between, a full disk, a lost link, an absent Redis, leaves the
old ones standing, is told in the acknowledgement where Redis can be reached, and is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from controller.agent.steps import keep_in_step, text_of
from controller.config import Config
from controller.errors import PbxctlError
from controller.fleet.files import NodeFiles
from controller.fleet.functions import Fleet
from controller.fleet.phones import FleetPhones, NodePhones, PublishedPhone
from controller.media.phones import regions_held_by
from controller.render.files import folder_of
from controller.render.phones import phones_file, phones_in, phones_path
from controller.render.write import replace

LOOK_S = 0.4

_log = logging.getLogger(__name__)


class PhoneFiles:
    """One node's file. `run` ends only when cancelled."""

    def __init__(self, config: Config, fleet: Fleet, node: str) -> None:
        self._config = config
        self._phones = FleetPhones(fleet)
        self._marks = NodeFiles(fleet, node)
        self._node = node
        self._regions = regions_held_by(config, node)
        self._path: Path = folder_of(config, node) / phones_path(config, node)
        #: a file was written and its reload did not succeed yet
        self._unread = False
        #: of the file as it was written last: whoever changes it changes that
        self._stamp: tuple[int, int] | None = None
        #: the phones that the file has, also while Redis is away
        self.names = phones_in(text_of(self._path))

    async def run(self) -> None:
        await keep_in_step(f"phones of {self._node}", self._path, self._step, LOOK_S)

    async def _step(self) -> None:
        published = await self._phones.published()
        wanted = {r: published[r] for r in self._regions if r in published}
        runs_on = (await self._phones.acknowledged()).get(self._node, NodePhones())
        in_step = runs_on.versions == wanted and not runs_on.problem and not self._unread
        if not wanted or (in_step and self._is_ours()):
            return
        versions: dict[str, int] = {}
        phones: list[PublishedPhone] = []
        for region in wanted:
            if found := await self._phones.of_region(region):
                versions[region] = found[0]
                phones += found[1]
        try:
            await self._put(phones, versions, in_step)
        except PbxctlError as error:
            await self._phones.acknowledge(self._node, NodePhones(runs_on.versions, error.message))
            raise
        except OSError as error:
            problem = f"the file of phones cannot be written: {error.strerror}"
            await self._phones.acknowledge(self._node, NodePhones(runs_on.versions, problem))
            raise
        await self._phones.acknowledge(self._node, NodePhones(versions))
        _log.info("phones of %s: %d, versions %s", self._node, len(phones), versions)

    def _is_ours(self) -> bool:
        """Whether the file is there as this agent wrote it, or found it to be."""
        stamp = _stamp(self._path)
        return stamp is not None and stamp == self._stamp

    async def _put(
        self, phones: list[PublishedPhone], versions: dict[str, int], in_step: bool
    ) -> None:
        text = phones_file(self._config, self._node, phones, versions)
        # By its text: what an agent of another version wrote may have to be mended.
        if in_step and text_of(self._path) == text:
            self._stamp = _stamp(self._path)
            return
        self._unread = True
        await asyncio.to_thread(replace, self._path, text, 0o600)
        self._stamp = _stamp(self._path)
        self.names = phones_in(text)
        await self._marks.have_read("phones")
        self._unread = False


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes with the file; None when it cannot be looked at."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns
