"""Keeps the agent's picture of the fleet fresh, in memory and on disk, and Kamailio's list in step.

On disk it survives the agent's restart while Redis is away. The list names the nodes that the
operator wants active, also those that are down just now: Kamailio probes them itself, and a driver
that is gone must not empty the list of the edge that is meant to survive it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from controller.agent.kamcmd import kamcmd
from controller.agent.steps import text_of
from controller.config import Config
from controller.durable import own_folder
from controller.fleet.state import NodeView
from controller.render.files import dispatcher_list, folder_of
from controller.render.write import replace
from controller.routing.fallback import Snapshot

#: a Kamailio that did not reload the list is asked again
READ_AGAIN_S = 10.0
_FILE_BYTES_MAX = 8 << 20


def path_of(config: Config) -> Path:
    return config.state_path / "agent" / "snapshot.json"


def read(path: Path) -> Snapshot | None:
    """The snapshot of a former run, or None when there is none that can be read."""
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            return None
        return msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except (OSError, msgspec.DecodeError):
        return None


def write(path: Path, snapshot: Snapshot) -> None:
    own_folder(path.parent.parent)  # state_dir, of which an agent may be the first to need one
    replace(path, msgspec.json.encode(snapshot).decode(), 0o640)


def take(
    nodes: Iterable[NodeView], before: Snapshot | None = None, known: Collection[str] = ()
) -> Snapshot:
    """known: the config's nodes. One of them that Redis does not have stands as it did `before`:
    when Redis was emptied they come back one by one."""
    told = {node.name: node for node in nodes}
    for node in before.nodes if before else ():
        if node.name in known:
            told.setdefault(node.name, node)
    return Snapshot(time.time(), tuple(told.values()))


class DispatcherList:
    """One edge's, from the first `update` on in step with the fleet."""

    def __init__(self, config: Config, edge: str) -> None:
        self._config = config
        self._edge = edge
        self._folder = folder_of(config, edge)
        self._path = self._folder / "pbxctl-dispatcher.list"
        #: when Kamailio is to read the list, on the monotonic clock; None once it has. It may not
        #: have read what an agent before us wrote.
        self._read_at_s: float | None = 0.0

    async def update(self, snapshot: Snapshot) -> bool:
        """Writes it and has it reloaded; True when it changed. OSError, PbxctlError: it is tried
        again later."""
        sips = {
            node.name: node.address
            for node in snapshot.nodes
            if node.want == "active" and node.name in self._config.nodes
        }
        if not sips:
            return False  # Kamailio cannot do without a destination; an old one is better than none
        text = dispatcher_list(self._config, self._config.edges[self._edge].region, sips)
        changed = text_of(self._path) != text
        if changed:
            await asyncio.to_thread(replace, self._path, text, 0o644)
            self._read_at_s = 0.0
        if self._read_at_s is not None and time.monotonic() >= self._read_at_s:
            self._read_at_s = time.monotonic() + READ_AGAIN_S
            await kamcmd(self._folder / "ctl", "dispatcher.reload")
            self._read_at_s = None
        return changed
