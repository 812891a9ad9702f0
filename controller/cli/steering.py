"""What the keys of `pbxctl top` do: pure, from one state of the screen to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from controller.api.shapes import FleetView
from controller.fleet.state import NodeView

SORTS = ("name", "load", "calls", "arrivals", "region")
_ORDER: dict[str, Callable[[NodeView], Any]] = {
    "name": lambda n: n.name,
    "load": lambda n: (-n.load, n.name),
    "calls": lambda n: (-(n.calls + n.reserved), n.name),
    "arrivals": lambda n: (-n.arrivals_per_s, n.name),
    "region": lambda n: (n.region, n.name),
}
_VERBS = {"d": "drain", "u": "resume"}
SEARCH_MAX = 40


@dataclass(frozen=True)
class Steering:
    """region, search: "" for all. typing: the keys go into `search`. asking: the verb that waits
    for a y. act: the verb that was confirmed, for `selected`; whoever carries it out clears it.
    """

    region: str = ""
    sort: str = SORTS[0]
    search: str = ""
    typing: bool = False
    selected: str = ""
    asking: str = ""
    act: str = ""
    remark: str = ""
    ended: bool = False

    @property
    def foot(self) -> str:
        """What the last line says; "" for the list of keys."""
        if self.typing:
            return f"filter: {self.search}_   Enter keeps it, Esc drops it"
        return f"{self.asking} {self.selected}? (y/n)" if self.asking else self.remark


def rows(fleet: FleetView | None, steering: Steering) -> list[NodeView]:
    """The nodes to show, in order."""
    region, search = steering.region, steering.search.lower()
    nodes = fleet.nodes if fleet else []
    return sorted(
        (n for n in nodes if region in ("", n.region) and search in _words(n)),
        key=_ORDER[steering.sort],
    )


def _words(node: NodeView) -> str:
    return " ".join((node.name, node.state.value, node.kind, node.problem or node.reason)).lower()


def picked(shown: Sequence[NodeView], selected: str, step: int) -> str:
    """The node selected after a step; the first one when the selected one is not shown."""
    names = [n.name for n in shown]
    if not names:
        return ""
    if selected not in names:
        return names[0]
    return names[max(0, min(len(names) - 1, names.index(selected) + step))]


def press(now: Steering, key: str, shown: Sequence[NodeView], regions: Sequence[str]) -> Steering:
    """The state after a key. shown: as `rows` has it; regions: those of the fleet."""
    if now.asking:
        if key == "y":
            return replace(now, asking="", act=now.asking)
        return replace(now, asking="", remark=f"not {now.asking}ed")
    if now.typing:
        return _typed(now, key)
    now = replace(now, remark="")
    if key in ("up", "down"):
        return replace(now, selected=picked(shown, now.selected, 1 if key == "down" else -1))
    if key in _VERBS and now.selected:
        return replace(now, asking=_VERBS[key])
    if key == "s":
        return replace(now, sort=_after(now.sort, SORTS))
    if key == "r":
        return replace(now, region=_after(now.region, ["", *sorted(regions)]))
    if key == "/":
        return replace(now, typing=True, search="")
    if key == "escape":
        return replace(now, search="", region="")
    return replace(now, ended=key == "q")


def _typed(now: Steering, key: str) -> Steering:
    if key == "enter":
        return replace(now, typing=False)
    if key == "escape":
        return replace(now, typing=False, search="")
    if key == "backspace":
        return replace(now, search=now.search[:-1])
    if len(key) == 1 and key.isprintable() and len(now.search) < SEARCH_MAX:
        return replace(now, search=now.search + key)
    return now


def _after(one: str, of: Sequence[str]) -> str:
    return of[(of.index(one) + 1) % len(of)] if one in of else of[0]
