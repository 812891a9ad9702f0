"""pbxctl top: the fleet as a live screen. screen.py draws it, this file reads and steers."""

from __future__ import annotations

import sys
import threading
import time

import click

from controller.api.client import Gate
from controller.api.shapes import Ask, FleetView, NodeAction, Nodes
from controller.cli import nodes as nodes_cli
from controller.cli import options, output
from controller.cli.keys import Keys, raw_keys
from controller.cli.screen import SORTS, View, draw, picked, rates, rows
from controller.cli.session import Session
from controller.errors import PbxctlError

DEFAULT_INTERVAL_S = 1.0
KEY_WAIT_S = 0.1
ASK_WITHIN_S = 5.0


class Reader:
    """Asks the gate in a thread of its own, so that keys work while the gate is slow."""

    def __init__(self, gate: Gate, interval_s: float) -> None:
        self._gate = gate
        self._interval_s = interval_s
        self._wake = threading.Event()
        self._ended = False
        self.view = View()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        while not self._ended:
            try:
                seen = self._gate.get(FleetView, "fleet")
                before = self.view.fleet
                self.view = View(seen, rates(before, seen) if before else {}, "", time.monotonic())
            except PbxctlError as error:
                # The last picture stays on the screen, marked with its age.
                old = self.view
                self.view = View(old.fleet, old.rates, error.message, old.read_s)
            self._wake.wait(self._interval_s)
            self._wake.clear()

    def now(self) -> None:
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()


@options.examples(
    "pbxctl top",
    "pbxctl top --region east --sort load",
    "pbxctl top -w 0.5",
)
@click.command()
@options.reading
@click.option("--region", default="", help="Begin with this region alone.")
@click.option(
    "--sort", type=click.Choice(SORTS), default=SORTS[0], show_default=True, help="Begin sorted so."
)
@click.pass_obj
def top(session: Session, region: str, sort: str) -> None:
    """The fleet live: load, calls, states, placements and refusals per second.

    Keys: arrows select, d drain, u resume, s sort, r region, q quit.
    """
    gate = session.gate(ASK_WITHIN_S)
    interval_s = session.watch_s or DEFAULT_INTERVAL_S
    usable = sys.stdin.isatty() and sys.stdout.isatty() and session.output in ("table", "wide")
    if not usable:
        _plain(session, gate, interval_s, region)
        return
    gate.get(FleetView, "fleet")  # a gate that is not there is an error, not an empty screen
    reader = Reader(gate, interval_s)
    try:
        with raw_keys() as keys:
            _live(session, gate, reader, keys, region, sort)
    except KeyboardInterrupt:
        pass
    finally:
        reader.end()


def _plain(session: Session, gate: Gate, interval_s: float, region: str) -> None:
    session.watch_s = interval_s

    def once() -> None:
        seen = [n for n in gate.get(Nodes, "nodes").nodes if not region or n.region == region]
        output.show(session, Nodes(seen), seen, nodes_cli.COLUMNS, lambda n: n.name)

    output.repeat(session, once)


def _live(session: Session, gate: Gate, reader: Reader, keys: Keys, region: str, sort: str) -> None:
    from rich.live import Live

    console = output.console(session)
    selected, asking, remark = "", "", ""
    with Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
        while True:
            view = reader.view
            shown = rows(view.fleet, region, sort)
            selected = picked(shown, selected, 0)
            prompt = f"{asking} {selected}? (y/n)" if asking else remark
            size = console.size
            live.update(
                draw(view, shown, selected, region, sort, prompt, size.width, size.height),
                refresh=True,
            )
            key = keys.next(KEY_WAIT_S)
            if not key:
                continue
            if asking:
                remark = _act(gate, selected, asking) if key == "y" else f"not {asking}ed"
                asking = ""
                reader.now()
                continue
            remark = ""
            if key == "q":
                return
            if key in ("up", "down"):
                selected = picked(shown, selected, 1 if key == "down" else -1)
            elif key == "s":
                sort = SORTS[(SORTS.index(sort) + 1) % len(SORTS)]
            elif key == "r" and view.fleet:
                known = ["", *sorted({n.region for n in view.fleet.nodes})]
                region = known[(known.index(region) + 1) % len(known)] if region in known else ""
            elif key in ("d", "u") and selected:
                asking = "drain" if key == "d" else "resume"


def _act(gate: Gate, name: str, verb: str) -> str:
    try:
        done = gate.post(NodeAction, "nodes", name, verb, body=Ask())
    except PbxctlError as error:
        return error.message
    told = "" if done.pbx == "done" else f" (the PBX itself: {done.message or done.pbx})"
    return f"{name} is {done.want} now{told}"
