"""pbxctl top: the fleet as a live screen. screen.py draws it, this file reads and steers."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

import click

from controller.api.client import Gate
from controller.api.shapes import Ask, FleetView, NodeAction, Nodes
from controller.cli import nodes as nodes_cli
from controller.cli import options, output
from controller.cli.history import KEPT, Sample, sample
from controller.cli.keys import Keys, raw_keys
from controller.cli.screen import View, draw
from controller.cli.session import Session
from controller.cli.steering import SORTS, Steering, picked, press, rows
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
            old = self.view
            try:
                seen = self._gate.get(FleetView, "fleet")
                past = (*old.past, sample(old.fleet, seen))[-KEPT:]
                self.view = View(seen, past, "", time.monotonic())
            except PbxctlError as error:
                # The last picture stays on the screen, marked with its age.
                past = (*old.past, Sample())[-KEPT:]
                self.view = View(old.fleet, past, error.message, old.read_s)
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

    Keys: arrows select a node, d drain, u resume (both ask first), s sort, r next region,
    / filter by name, state, kind or reason, Esc show all again, q quit.
    """
    gate = session.gate(ASK_WITHIN_S)
    interval_s = session.watch_s or DEFAULT_INTERVAL_S
    bars = sys.stdout.encoding.lower().startswith("utf")
    drawn = bars and sys.stdout.isatty() and not output.is_dumb(sys.stdout)
    if not (sys.stdin.isatty() and drawn and session.output in ("table", "wide")):
        _plain(session, gate, interval_s, region)
        return
    gate.get(FleetView, "fleet")  # a gate that is not there is an error, not an empty screen
    reader = Reader(gate, interval_s)
    try:
        with raw_keys() as keys:
            _live(session, gate, reader, keys, Steering(region, sort))
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


def _live(session: Session, gate: Gate, reader: Reader, keys: Keys, steering: Steering) -> None:
    from rich.live import Live

    console = output.console(session)
    with Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
        while not steering.ended:
            view = reader.view
            shown = rows(view.fleet, steering)
            if (
                not steering.asking
            ):  # a question stays with its node, also when that leaves the list
                steering = replace(steering, selected=picked(shown, steering.selected, 0))
            size = console.size
            live.update(draw(view, shown, steering, size.width, size.height), refresh=True)
            key = keys.next(KEY_WAIT_S)
            if not key:
                continue
            known = {n.region for n in view.fleet.nodes} if view.fleet else set()
            steering = press(steering, key, shown, sorted(known))
            if steering.act:
                remark = _act(gate, steering.selected, steering.act)
                steering = replace(steering, act="", remark=remark)
                reader.now()


def _act(gate: Gate, name: str, verb: str) -> str:
    try:
        done = gate.post(NodeAction, "nodes", name, verb, body=Ask())
    except PbxctlError as error:
        return error.message
    told = "" if done.pbx == "done" else f" (the PBX itself: {done.message or done.pbx})"
    return f"{name} is {done.want} now{told}"
