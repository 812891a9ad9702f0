"""What `pbxctl top` draws: pure, from a FleetView to a rich renderable of a given size."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from controller.api.shapes import FleetView
from controller.cli.history import Sample, spark
from controller.cli.nodes import STATE_STYLE, percent, silence
from controller.cli.output import Column, fitting
from controller.cli.steering import Steering
from controller.cli.text import plain
from controller.fleet.state import NodeView
from controller.model import NodeState

BAR_MIN, BAR_MAX = 6, 24
#: what of a reason keeps its place beside the other columns, in a narrow terminal and a wide one
REASON_NARROW, REASON_WIDE, WIDE = 24, 36, 120
LOW_LINES = 14
#: blocks of a node's own line of load
TREND = 10
LABEL, TOLD = 9, 22
ARROWS = "arrows select  "
STALE_AFTER_S = 3.0


@dataclass(frozen=True)
class View:
    """fleet: the last picture; read_s: when, by the monotonic clock; error: why there is no new.

    past: the readings so far, the latest last.
    """

    fleet: FleetView | None = None
    past: tuple[Sample, ...] = ()
    error: str = ""
    read_s: float = 0.0

    @property
    def rates(self) -> Mapping[str, float]:
        return self.past[-1].per_s if self.past else {}


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


def _columns(past: Sequence[Sample]) -> tuple[Column[NodeView], ...]:
    def trend(node: NodeView) -> str:
        return spark([s.loads.get(node.name) for s in past], TREND, 1.0)

    return (
        Column("NODE", lambda n: n.name[:24]),
        Column("REGION", lambda n: n.region[:12], rank=4),
        Column("STATE", lambda n: n.state.value, style=lambda n: STATE_STYLE[n.state]),
        Column("LOAD", lambda n: percent(n.load), right=True, rank=1),
        Column("TREND", trend, rank=6),
        Column("CALLS", lambda n: f"{n.calls}+{n.reserved}/{n.calls_max or '-'}", right=True),
        Column("ARR/S", lambda n: f"{n.arrivals_per_s:.1f}", right=True, rank=3),
        Column("CPU", lambda n: percent(n.cpu), right=True, rank=2),
        Column("SILENT", silence, right=True, rank=5),
    )


def draw(
    view: View, shown: Sequence[NodeView], steering: Steering, width: int, height: int
) -> Group:
    """The whole screen, never higher or wider than told."""
    # A low terminal has room for the first line of the head alone.
    lines = _head(view, steering, width)
    if height < LOW_LINES:
        lines = lines[:1]
    else:
        if len(lines) + len(shown) + 8 <= height:
            lines += _regions(view)
        lines.append(Text(""))
    lines += _table(view.past, shown, steering.selected, width, max(2, height - len(lines) - 1))
    lines += [Text("")] * (height - 1 - len(lines))
    keys = "d drain  u resume  s sort  r region  / filter  q quit"
    if width >= len(keys) + len(ARROWS):
        keys = ARROWS + keys
    foot = Text(plain(steering.foot or keys), style="reverse" if steering.foot else "dim")
    lines = [*lines[: height - 1], foot]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return Group(*lines)


def _head(view: View, steering: Steering, width: int) -> list[Text]:
    fleet = view.fleet
    if fleet is None:
        return [Text(f"no answer yet {plain(view.error)}", style="red")]
    states = {s: sum(n.state is s for n in fleet.nodes) for s in NodeState}
    first = Text.assemble(
        (plain(fleet.fleet), "bold"),
        f"  {len(fleet.nodes)} nodes: ",
        Text(", ").join(Text(f"{n} {s.value}", STATE_STYLE[s]) for s, n in states.items() if n),
    )
    age_s = time.monotonic() - view.read_s
    if view.error or age_s > STALE_AFTER_S:
        first.append(f"  {age_s:.0f} s old: {plain(view.error)}", style="bold red")
    room = max(0, width - LABEL - TOLD)
    told, _ = _calls(fleet.nodes)
    lines = [_line("calls", told, [sum(s.calls.values()) for s in view.past], room)]
    for label, kind in (("placed", "place"), ("spilled", "spill"), ("refused", "reject")):
        rate = view.rates.get(kind)
        told = f"{'-' if rate is None else f'{rate:.1f}'}/s, in all {_total(fleet, kind)}"
        style = "bold red" if kind == "reject" and rate else ""
        lines.append(_line(label, told, [s.per_s.get(kind) for s in view.past], room, style))
    drivers = ", ".join(fleet.drivers)
    led = Text.assemble(
        ("leader   ", "dim"),
        (plain(fleet.leader), "") if fleet.leader else ("none", "bold red"),
        ("  drivers ", "dim"),
        (f"{len(fleet.drivers)}: {plain(drivers)}", "") if drivers else ("none", "bold red"),
    )
    shows = f"sort {steering.sort}  region {plain(steering.region) or 'all'}"
    if steering.search:
        shows += f"  filter {plain(steering.search)}"
    return [first, *lines, led, Text(f"shown    {shows}", style="dim")]


def _line(
    label: str, told: str, values: Sequence[float | None], room: int, style: str = ""
) -> Text:
    return Text.assemble(
        (label.ljust(LABEL), "dim"), (told.ljust(TOLD), style), (spark(values, room), "cyan")
    )


def _calls(nodes: Sequence[NodeView]) -> tuple[str, int]:
    """Calls on all, room on those that take calls; and how many those are."""
    fit = [n for n in nodes if n.state in (NodeState.ACTIVE, NodeState.JOINING)]
    room = sum(max(0, n.calls_max - n.calls - n.reserved) for n in fit)
    return f"{sum(n.calls + n.reserved for n in nodes)}, room for {room}", len(fit)


def _regions(view: View) -> list[Text]:
    """A line a region: its calls and room, what was placed in it, what came from others."""
    nodes = view.fleet.nodes if view.fleet else []
    names = sorted({n.region for n in nodes})
    if len(names) < 2:
        return []
    size = min(24, max(map(len, names)))
    lines = []
    for name in names:
        of = [n for n in nodes if n.region == name]
        told, fit = _calls(of)
        own, others = (f"{view.rates.get(f'{k}:{name}', 0.0):.1f}/s" for k in ("place", "spill"))
        lines.append(
            Text.assemble(
                (plain(name)[:size].ljust(size), "bold" if fit else "bold red"),
                f"  {told}; {fit} of {len(of)} nodes take calls; {own} placed, {others} spilled",
            )
        )
    return [Text(""), *lines]


def _total(fleet: FleetView, kind: str) -> int:
    return sum(n for key, n in fleet.counters.items() if key.startswith(kind + ":"))


def _table(
    past: Sequence[Sample], shown: Sequence[NodeView], selected: str, width: int, room: int
) -> list[Text]:
    every = _columns(past)
    cells = {c.title: [plain(c.cell(n)) for n in shown] for c in every}
    reasons = [plain(n.problem or n.reason) for n in shown]
    most = REASON_WIDE if width >= WIDE else REASON_NARROW
    reason_width = min(most, max(map(len, reasons), default=0))
    columns = fitting(every, cells, max(10, width - BAR_MIN - 2 - reason_width))
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
        lines.append(Text("no nodes here: Esc shows all", style="dim"))
    return lines


def _window(names: Sequence[str], selected: str, room: int) -> int:
    """The first row to show so that the selected one is on the screen."""
    at = names.index(selected) if selected in names else 0
    return max(0, min(at - room // 2, len(names) - room)) if len(names) > room else 0
