"""What `pbxctl top` remembers of the last minutes, and drawing it as a line of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controller.api.shapes import FleetView

KEPT = 240
#: counters of FleetView, and what they count
RATES = ("place", "spill", "reject")
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Sample:
    """One reading. per_s: RATES since the reading before, fleet-wide and as KIND:REGION; empty
    while that cannot be told. calls and loads: by node."""

    per_s: Mapping[str, float] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    loads: Mapping[str, float] = field(default_factory=dict)


def sample(before: FleetView | None, now: FleetView) -> Sample:
    return Sample(
        rates(before, now) if before else {},
        {n.name: n.calls + n.reserved for n in now.nodes},
        {n.name: n.load for n in now.nodes},
    )


def rates(before: FleetView, now: FleetView) -> dict[str, float]:
    """Per second, from two pictures. Empty while that cannot be told."""
    span_s = (now.now_ms - before.now_ms) / 1000
    if span_s <= 0:
        return {}
    out = dict.fromkeys(RATES, 0.0)
    for key in before.counters | now.counters:
        kind = key.partition(":")[0]
        grown = now.counters.get(key, 0) - before.counters.get(key, 0)
        if grown < 0:  # Redis lost its data in between
            return {}
        if kind in out:
            out[key] = grown / span_s
            out[kind] += grown / span_s
    return out


def spark(values: Sequence[float | None], width: int, top: float = 0.0) -> str:
    """The last `width` values, the newest at the right end; None leaves a gap.

    top: what fills a block; without it the highest of those shown. The lowest block is 0 alone.
    """
    shown = list(values)[-width:] if width > 0 else []
    top = top or max((v for v in shown if v is not None), default=0.0)
    return "".join(_block(v, top) for v in shown).rjust(max(width, 0))


def _block(value: float | None, top: float) -> str:
    if value is None:
        return " "
    if value <= 0 or top <= 0:
        return _BLOCKS[0]
    return _BLOCKS[max(1, min(len(_BLOCKS) - 1, round(value / top * (len(_BLOCKS) - 1))))]
