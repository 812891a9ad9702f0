"""Looks at the packets of sampled calls on this host, and says what they are.

The driver names call and port (media.sample_share); this captures a second of it, has it judged by
media/packets.py, and writes the finding to the call's record. It holds up nothing: what cannot be
captured is "not checked".
"""

from __future__ import annotations

import asyncio
import logging

from prometheus_client import Counter

from controller.agent.answers import REGISTRY
from controller.agent.capture import CannotCapture, capture
from controller.errors import PbxctlError
from controller.fleet.functions import Fleet
from controller.media.packets import Look, look, worst

POLL_S = 0.5
PACKETS = 60
WITHIN_S = 2.5

LOOKS = Counter(
    "pbxctl_agent_looks_total",
    "Media ports looked at, by what was on the wire.",
    ["wire"],
    registry=REGISTRY,
)
for _wire in ("clear", "encrypted", "not checked"):
    LOOKS.labels(_wire)
_log = logging.getLogger(__name__)


async def watch_packets(fleet: Fleet, node: str) -> None:
    """Until cancelled. Redis may be away."""
    while True:
        await asyncio.sleep(POLL_S)
        try:
            wanted = await fleet.looks(node)
            found = await asyncio.gather(*(_look(node, port) for _, port in wanted))
            for (key, port), seen in zip(wanted, found, strict=True):
                LOOKS.labels(seen.wire).inc()
                await fleet.looked(node, key, seen.wire, _words(seen), port)
        except PbxctlError as error:
            _log.debug("packets of %s: %s", node, error)


async def _look(node: str, port: int) -> Look:
    try:
        seen = await capture(port, PACKETS, WITHIN_S)
    except CannotCapture as error:
        _log.warning("packets of %s are not checked: %s (CAP_NET_RAW?)", node, error)
        return Look("not checked")
    # What the far end sends counts too: in clear, it is heard by the wire whatever we send.
    return worst([look(seen.sent), look(seen.received)])


def _words(found: Look) -> str:
    return (
        f"{found.packets} packets on the wire are in clear, chi-square {found.chi_square:.0f} "
        "of 255 for noise"
        if found.wire == "clear"
        else ""
    )
