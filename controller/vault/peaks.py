"""How loud audio is along its length: what a picture in a terminal is drawn from."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

from controller.errors import VaultError

FULL_SCALE = 32768


def peaks(
    parts: Iterable[bytes], frames: int, *, channels: int, columns: int
) -> list[tuple[int, ...]]:
    """The largest |sample| of each column, for each channel: `columns` tuples of 0 to 32768.

    parts: s16le audio, in order, cut anywhere. frames: how many frames it has in all; columns
    beyond the audio's end, or between two frames of a very short one, are 0.
    """
    if channels < 1 or columns < 1 or frames < 0:
        raise VaultError(f"no picture of {frames} frames in {columns} columns")
    found = [[0] * channels for _ in range(columns)]
    frame_bytes = 2 * channels
    at = 0
    rest = b""
    for part in parts:
        data = rest + part
        whole = len(data) - len(data) % frame_bytes
        rest = data[whole:]
        samples = array("h", data[:whole])
        if sys.byteorder == "big":
            samples.byteswap()
        at = _mark(found, samples, at, frames)
    return [tuple(column) for column in found]


def _mark(found: list[list[int]], samples: array[int], at: int, frames: int) -> int:
    """Marks frames `at` and on; returns the next frame's number."""
    columns, channels = len(found), len(found[0])
    count = len(samples) // channels
    done = 0
    while done < count and at < frames:
        column = at * columns // frames
        ends = -(-(column + 1) * frames // columns)  # the first frame of the next column
        take = min(ends - at, count - done)
        for channel in range(channels):
            piece = samples[done * channels + channel : (done + take) * channels : channels]
            loudest = max(max(piece), -min(piece))
            found[column][channel] = max(found[column][channel], loudest)
        done += take
        at += take
    return at + count - done
