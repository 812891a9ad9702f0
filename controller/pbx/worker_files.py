"""A node's driver has its PBX read what the node's agent has written (fleet/files.py)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from controller.errors import CommandRefused, DeadlineExceeded, FleetUnreachable, StaleEpoch
from controller.fleet.files import NodeFiles, What
from controller.fleet.state import Lease
from controller.model import Kind
from controller.pbx.base import Driver

LOOK_S = 0.25
#: what `reload` of each driver reads them
PARTS: Mapping[Kind, Mapping[What, tuple[str, ...]]] = {
    Kind.ASTERISK: {"phones": ("pjsip",), "certificates": ("pjsip", "manager")},
    Kind.FREESWITCH: {"phones": ("directory",), "certificates": ("certificates",)},
}

_log = logging.getLogger(__name__)


async def read_written(
    files: NodeFiles, kind: Kind, lease: Callable[[], Lease | None], driver: Driver
) -> None:
    """Until cancelled or the link is lost.

    A reload may run twice (another driver, a lost word): it drops no call.
    """
    while True:
        await asyncio.sleep(LOOK_S)
        held = lease()
        if held is None:
            continue
        try:
            for what, mark in (await files.due()).items():
                problem = ""
                try:
                    for part in PARTS[kind][what]:
                        await driver.reload(part)
                except (CommandRefused, DeadlineExceeded) as error:
                    problem = error.message
                await files.tell_read(held, what, mark, problem)
        except (FleetUnreachable, StaleEpoch) as error:
            _log.debug("node %s: what its agent wrote: %s", held.node, error)
