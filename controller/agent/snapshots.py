"""Keeps the agent's picture of the fleet fresh, in memory and on disk, and Kamailio's list in step.

On disk it survives the agent's restart while Redis is away. The list names the nodes that the
operator wants active, also those that are down just now: Kamailio probes them itself, and a driver
that is gone must not empty the list of the edge that is meant to survive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import msgspec

from controller.agent.kamcmd import kamcmd
from controller.config import Config
from controller.fleet.state import NodeView
from controller.render.files import dispatcher_list, folder_of
from controller.render.write import replace
from controller.routing.fallback import Snapshot

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
    replace(path, msgspec.json.encode(snapshot).decode(), 0o640)


def take(nodes: list[NodeView]) -> Snapshot:
    return Snapshot(time.time(), tuple(nodes))


async def update_list(config: Config, edge: str, snapshot: Snapshot) -> bool:
    """Brings the edge's dispatcher list in step and has it reloaded; True when it changed."""
    sips = {
        node.name: node.address
        for node in snapshot.nodes
        if node.want == "active" and node.name in config.nodes
    }
    if not sips:
        return False  # Kamailio cannot do without a destination; an old one is better than none
    folder = folder_of(config, edge)
    path = folder / "pbxctl-dispatcher.list"
    text = dispatcher_list(config, config.edges[edge].region, sips)
    with contextlib.suppress(OSError):
        if path.read_text("utf-8") == text:
            return False
    await asyncio.to_thread(replace, path, text, 0o644)
    await kamcmd(folder / "ctl", "dispatcher.reload")
    return True
