"""What `pbxctl top` draws: pure, from a FleetView to a rich renderable of a given size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.text import Text

from controller.api.shapes import FleetView
from controller.cli.nodes import STATE_STYLE, percent, silence
from controller.cli.output import Column, fitting
from controller.cli.text import plain
from controller.fleet.state import NodeView
from controller.model import NodeState

SORTS = ("name", "load", "calls", "arrivals", "region")
_ORDER: dict[str, Callable[[NodeView], Any]] = {
    "name": lambda n: n.name,
    "load": lambda n: (-n.load, n.name),
    "calls": lambda n: (-(n.calls + n.reserved), n.name),
    "arrivals": lambda n: (-n.arrivals_per_s, n.name),
    "region": lambda n: (n.region, n.name),
}
BAR_MIN, BAR_MAX = 6, 24
REASON_MAX = 24  # what of a reason keeps its place beside the other columns
LOW_LINES = 12
STALE_AFTER_S = 3.0


@dataclass(frozen=True)
class View:
    """fleet: the last picture; read_s: when, by the monotonic clock; error: why there is no new."""

    fleet: FleetView | None = None
    rates: dict[str, float] = field(default_factory=dict)
    error: str = ""
    read_s: float = 0.0


def rates(before: FleetView, now: FleetView) -> dict[str, float]:
    """Per second, from two pictures: place, spill, reject. Empty while that cannot be told."""
    span_s = (now.now_ms - before.now_ms) / 1000
    if span_s <= 0:
        return {}
    out = {}
    for kind in ("place", "spill", "reject"):
        grown = _total(now, kind) - _total(before, kind)
        if grown < 0:  # Redis lost its data in between
            return {}
        out[kind] = grown / span_s
    return out


def _total(fleet: FleetView, kind: str) -> int:
    return sum(n for key, n in fleet.counters.items() if key.startswith(kind + ":"))


def rows(fleet: FleetView | None, region: str, sort: str) -> list[NodeView]:
    nodes = fleet.nodes if fleet else []
    return sorted((n for n in nodes if region in ("", n.region)), key=_ORDER[sort])


def picked(shown: Sequence[NodeView], selected: str, step: int) -> str:
    """The node selected after a step; the first one when the selected one is not shown."""
    names = [n.name for n in shown]
    if not names:
        return ""
    if selected not in names:
        return names[0]
    return names[max(0, min(len(names) - 1, names.index(selected) + step))]


def bar(node: NodeView, width: int) -> Text:
    """Calls (full), reserved (half) and free (dots) of the node's limit."""
    if node.calls_max <= 0:
        return Text("no limit".ljust(width)[:width], style="dim")
    calls = min(width, round(width * node.calls / node.calls_max))
    if node.calls and not calls:
        calls = 1
    reserved = min(width - calls, round(width * node.reserved / node.calls_max))
    if node.reserved and not reserved and calls < width:
        reserved = 1
    full = (node.calls + node.reserved) / node.calls_max
    style = "red" if full >= 0.95 else "yellow" if full >= 0.8 else "green"
    return Text.assemble(
        ("█" * calls, style), ("▒" * reserved, style), ("·" * (width - calls - reserved), "dim")
    )


_COLUMNS: tuple[Column[NodeView], ...] = (
    Column("NODE", lambda n: n.name[:24]),
    Column("REGION", lambda n: n.region[:12], rank=4),
    Column("STATE", lambda n: n.state.value, style=lambda n: STATE_STYLE[n.state]),
    Column("LOAD", lambda n: percent(n.load), right=True, rank=1),
    Column("CALLS", lambda n: f"{n.calls}+{n.reserved}/{n.calls_max or '-'}", right=True),
    Column("ARR/S", lambda n: f"{n.arrivals_per_s:.1f}", right=True, rank=3),
    Column("CPU", lambda n: percent(n.cpu), right=True, rank=2),
    Column("SILENT", silence, right=True, rank=5),
)


def draw(
    view: View,
    shown: Sequence[NodeView],
    selected: str,
    region: str,
    sort: str,
    remark: str,
    width: int,
    height: int,
) -> Group:
    """The whole screen, never higher or wider than told."""
    # A low terminal has room for the first line of the head alone.
    lines = _head(view, region, sort)
    lines = lines[:1] if height < LOW_LINES else [*lines, Text("")]
    lines += _table(shown, selected, width, max(2, height - len(lines) - 1))
    lines += [Text("")] * (height - 1 - len(lines))
    foot = remark or "arrows select  d drain  u resume  s sort  r region  q quit"
    lines = [*lines[: height - 1], Text(plain(foot), style="reverse" if remark else "dim")]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return Group(*lines)


def _head(view: View, region: str, sort: str) -> list[Text]:
    fleet = view.fleet
    if fleet is None:
        return [Text(f"no answer yet {plain(view.error)}", style="red")]
    states = {s: sum(n.state is s for n in fleet.nodes) for s in NodeState}
    calls = sum(n.calls for n in fleet.nodes)
    reserved = sum(n.reserved for n in fleet.nodes)
    limit = sum(
        n.calls_max for n in fleet.nodes if n.state in (NodeState.ACTIVE, NodeState.JOINING)
    )
    arrivals = sum(n.arrivals_per_s for n in fleet.nodes)
    first = Text.assemble(
        (plain(fleet.fleet), "bold"),
        f"  {len(fleet.nodes)} nodes: ",
        Text(", ").join(Text(f"{n} {s.value}", STATE_STYLE[s]) for s, n in states.items() if n),
    )
    age_s = time.monotonic() - view.read_s
    if view.error or age_s > STALE_AFTER_S:
        first.append(f"  {age_s:.0f} s old: {plain(view.error)}", style="bold red")
    free = f"{calls + reserved} of {limit} calls" + (f", {reserved} reserved" if reserved else "")
    per = {k: f"{v:.1f}" for k, v in view.rates.items()} or dict.fromkeys(_KINDS, "-")
    second = Text(f"{free}  arrivals {arrivals:.1f}/s")
    third = Text.assemble(
        f"placed {per['place']}/s  spilled {per['spill']}/s  ",
        (
            f"rejected {per['reject']}/s",
            "bold red" if view.rates.get("reject") else "",
        ),
        f"  (totals {_total(fleet, 'place')}, {_total(fleet, 'spill')}, {_total(fleet, 'reject')})",
    )
    drivers = ", ".join(fleet.drivers)
    fourth = Text.assemble(
        ("leader ", "dim"),
        (plain(fleet.leader), "") if fleet.leader else ("none", "red"),
        ("  drivers ", "dim"),
        (f"{len(fleet.drivers)}: {plain(drivers)}", "") if drivers else ("none", "bold red"),
        (f"  sort {sort}  region {region or 'all'}", "dim"),
    )
    return [first, second, third, fourth]


_KINDS = ("place", "spill", "reject")


def _table(shown: Sequence[NodeView], selected: str, width: int, room: int) -> list[Text]:
    cells = {c.title: [plain(c.cell(n)) for n in shown] for c in _COLUMNS}
    reasons = [plain(n.problem or n.reason) for n in shown]
    reason_width = min(REASON_MAX, max(map(len, reasons), default=0))
    columns = fitting(_COLUMNS, cells, max(10, width - BAR_MIN - 2 - reason_width))
    sizes = [max(map(len, [c.title, *cells[c.title]])) for c in columns]
    used = sum(sizes) + 2 * len(sizes)
    bar_width = max(0, min(BAR_MAX, width - used - (reason_width + 2 if reason_width else 0)))
    head = Text(style="bold")
    for column, size in zip(columns, sizes, strict=True):
        head.append((column.title.rjust(size) if column.right else column.title.ljust(size)) + "  ")
    head.append("FILLED".ljust(bar_width)[:bar_width] + ("  REASON" if reason_width else ""))
    lines = [head]
    first = _window([n.name for n in shown], selected, room - 1)
    for i, node in list(enumerate(shown))[first : first + room - 1]:
        line = Text()
        for column, size in zip(columns, sizes, strict=True):
            text = cells[column.title][i]
            style = column.style(node) if callable(column.style) else column.style
            line.append(text.rjust(size) if column.right else text.ljust(size), style=style)
            line.append("  ")
        line.append_text(bar(node, bar_width))
        line.append("  " + reasons[i] if reasons[i] else "")
        if node.name == selected:
            line.stylize("reverse", 0, max(1, sizes[0]))
        lines.append(line)
    if not shown:
        lines.append(Text("no nodes here", style="dim"))
    return lines


def _window(names: Sequence[str], selected: str, room: int) -> int:
    """The first row to show so that the selected one is on the screen."""
    at = names.index(selected) if selected in names else 0
    return max(0, min(at - room // 2, len(names) - room)) if len(names) > room else 0
