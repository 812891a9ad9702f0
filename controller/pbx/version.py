"""Versions below which a PBX has known holes that reach a fleet.

FreeSWITCH 1.11.2. Asterisk: the security releases of 5 February 2026 (20.18.2, 21.12.1, 22.8.2,
23.2.2); branches older than 20 get no more fixes, so the floor of 20 counts for them. A newer
advisory raises these. Asterisk 22.10 is the first that drains natively (PJSIPSetMaintenance).
"""

from __future__ import annotations

import re

from controller.model import Kind

FREESWITCH_FLOOR = (1, 11, 2)
ASTERISK_FLOORS = {20: (20, 18, 2), 21: (21, 12, 1), 22: (22, 8, 2), 23: (23, 2, 2)}
ASTERISK_NATIVE_DRAIN = (22, 10)


def parse_version(text: str) -> tuple[int, ...]:
    """ "22.10.1~dfsg" as (22, 10, 1); () when it does not begin with a number."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def floor_of(kind: Kind, version: tuple[int, ...]) -> tuple[int, ...]:
    """The lowest acceptable version of this branch."""
    if kind is Kind.FREESWITCH:
        return FREESWITCH_FLOOR
    branch = version[0] if version else 0
    return ASTERISK_FLOORS.get(branch, min(ASTERISK_FLOORS.values()))
