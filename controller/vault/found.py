"""What a check of the vault has found."""

from __future__ import annotations

import msgspec


class Found(msgspec.Struct, frozen=True):
    """checked: recordings looked at. lost: by recording, what is wrong, the first 100.

    stray_slots: key slots of no recording in the index. left_over: bodies of erased recordings
    that were still there and are deleted now.
    """

    checked: int
    lost: dict[str, str]
    lost_count: int
    stray_slots: int
    left_over: int
