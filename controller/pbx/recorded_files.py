"""The files that a PBX records a call into: their names, which agent, driver and dialplan share.

FreeSWITCH writes one stereo file. Asterisk writes two mono ones, the caller's voice left and what
the caller hears right: its own interleaving (MixMonitor's `D`) writes half of each frame of a
wideband call, at half the speed (app_mixmonitor.c up to 22.10.1). Its stdio holds 32 KiB of each
file back, so where it may it writes them at twice the rate that is wanted, and every second sample
is taken.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import msgspec


class Layout(msgspec.Struct, frozen=True):
    """names: what follows the recording's id in the names of its files. step: of the samples in a
    mono file, each step-th is taken."""

    names: tuple[str, ...] = (".raw",)
    step: int = 1


STEREO = Layout()
#: by the rate of what is sealed; `.sln32` is 32 kHz to Asterisk, `.raw` 8 kHz (format_sln.c)
SIDES = {
    16_000: Layout(("-l.sln32", "-r.sln32"), 2),
    8_000: Layout(("-l.raw", "-r.raw"), 1),
}
NAMES = frozenset(name for layout in (STEREO, *SIDES.values()) for name in layout.names)


def mixmonitor_options(stem: str, rate_hz: int) -> str:
    """For MixMonitor without a file. stem: the path of the files up to their names' ends."""
    left, right = SIDES[rate_hz].names
    return f"r({stem}{left})t({stem}{right})"


def stem_of(path: str) -> str:
    """Of the path that the drivers are told, ID.raw whatever the layout is."""
    return str(PurePosixPath(path).with_suffix(""))
