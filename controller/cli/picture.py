"""A recording's loudness as lines of block characters, one line a channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

from controller.cli.times import length

_BLOCKS = " ▁▂▃▄▅▆▇█"
_FLOOR_DB = -54.0
_FULL_SCALE = 32768


def drawn(peaks: Sequence[Sequence[int]], length_ms: int) -> list[str]:
    """By decibels: speech that is clear to the ear would be flat by amplitude."""
    if not peaks:
        return ["no audio"]
    lines = [
        "".join(_block(column[channel]) for column in peaks) for channel in range(len(peaks[0]))
    ]
    end = length(length_ms)
    return [*lines, "0:00" + end.rjust(len(peaks) - len("0:00"))]


def _block(peak: int) -> str:
    if peak <= 0:
        return _BLOCKS[0]
    share = 1 - 20 * math.log10(peak / _FULL_SCALE) / _FLOOR_DB
    return _BLOCKS[max(0, min(len(_BLOCKS) - 1, math.ceil(share * (len(_BLOCKS) - 1))))]
