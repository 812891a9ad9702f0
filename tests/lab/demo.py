"""`make demo`: a fleet of real PBXs takes 300 calls while one node is killed and one frozen.

Everything runs on loopback and is gone at the end, also after Ctrl-C. What it prints is measured:
calls by SIPp, calls of each node by the node's own count, the rest from the fleet's picture.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from controller.config import Config
from controller.fleet.functions import Fleet, connect
from controller.fleet.state import NodeView
from controller.model import NodeState, Placed
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch, freeswitch_binary
from tests.lab.lab import Lab
from tests.lab.rendered import put_rendered, start_kamailio
from tests.lab.run import LabError
from tests.lab.sipp import Calls, CallsResult

CALLS = 300
RATE_PER_S = 10.0
HOLD_S = 6.0
# One node alone has room for all calls that are up at once: without a FreeSWITCH only one is left.
CALLS_MAX = 70
KILL_AT_S, FREEZE_AT_S, MEND_AT_S = 8.0, 15.0, 21.0
POLL_S = 0.1
BAR = 10
COLOURS = {"active": "green", "joining": "cyan", "down": "red"}


@dataclass
class Watch:
    """What the demo has seen so far."""

    over_limit: int = 0
    spread: list[float] = field(default_factory=list)
    detected_ms: dict[str, float] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    stats: dict[str, int] = field(default_factory=dict)

    def see(self, nodes: list[NodeView]) -> None:
        self.over_limit += sum(n.calls + n.reserved > n.calls_max for n in nodes)
        active = [n for n in nodes if n.state is NodeState.ACTIVE]
        for region in {n.region for n in active}:  # a further region has none before it must
            counts = [n.calls for n in active if n.region == region]
            if len(counts) > 1 and statistics.mean(counts) >= 5:
                self.spread.append(max(counts) / statistics.mean(counts))


def table(nodes: list[NodeView], watch: Watch, so_far: CallsResult, elapsed_s: float) -> Table:
    grid = Table(
        title=f"pbxctl demo  {elapsed_s:4.0f} s   answered {so_far.answered}/{CALLS}"
        f"   refused {so_far.failed}",
        caption="\n".join(watch.events[-4:]),
        expand=False,
    )
    for column in ("node", "region", "state"):
        grid.add_column(column, no_wrap=True)
    for column in ("calls", "limit", "load", "calls/s"):
        grid.add_column(column, justify="right")
    grid.add_column("", width=BAR)
    for n in nodes:
        bar = "█" * round(BAR * min(1, n.calls / max(1, n.calls_max)))
        state = f"[{COLOURS.get(n.state.value, 'yellow')}]{n.state.value}[/]"
        numbers = (f"{n.calls}", f"{n.calls_max}", f"{n.load:.2f}", f"{n.arrivals_per_s:.1f}")
        grid.add_row(n.name, n.region, state, *numbers, bar)
    return grid


class Demo:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.watch = Watch()
        self.began_s = time.monotonic()

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self.began_s:5.1f} s[/]  {text}")

    def run(self) -> int:
        with Lab() as lab, self._fleet(lab) as fleet:
            self.say("control plane: redis, driver, steward, gate, agent by `pbxctl up`")
            argv: list[str | Path] = [
                sys.executable,
                "-m",
                "controller.cli",
                "--config",
                fleet.config_path,
                "up",
            ]
            gate = fleet.config.state_path / "gate.sock"
            lab.program("up", argv, ready=gate.exists)
            fleet.until_active(30)
            self.say("all nodes are active; Kamailio places each call by live load")
            start_kamailio(lab, fleet.config, "edge")
            answered = lab.calls(
                fleet.config.edges["edge"].sip,
                "9196",
                count=CALLS,
                rate_per_s=RATE_PER_S,
                hold_s=HOLD_S,
            )
            asyncio.run(self._show(fleet, answered))
            return self._summary(answered.result(60))

    @contextmanager
    def _fleet(self, lab: Lab) -> Iterator[LabFleet]:
        self.say("starts three Asterisk nodes in two regions")
        nodes: dict[Asterisk | FreeSwitch, str] = {}
        for name, region in (("east-1", "east"), ("east-2", "east"), ("west-1", "west")):
            nodes[lab.asterisk(name)] = region
        if freeswitch_binary():
            self.say("starts a FreeSWITCH node too: its binary is here")
            nodes[lab.freeswitch("west-fs")] = "west"
        else:
            self.say("no FreeSWITCH binary (PATH, FREESWITCH_BIN): Asterisk alone")
        settings = {
            "edges": {"edge": {"region": "east", "sip": f"{lab.address()}:5060"}},
            "numbers": [{"prefix": "9196", "service": "echo"}],
            "agent": {"host": lab.address()},
            "placement": {"ramp_s": 5, "spill_above": 0.5},
        }
        with LabFleet(
            lab, nodes, None, calls_max=CALLS_MAX, user="fleet", settings=settings
        ) as fleet:
            for node in nodes:
                put_rendered(fleet.config, node)
            yield fleet

    async def _show(self, fleet: LabFleet, calls: Calls) -> None:
        door = Fleet(connect(fleet.config, "gate"), fleet.config.fleet)
        breaking = asyncio.create_task(self._break(fleet, door))
        began_s = time.monotonic()
        try:
            with Live(console=self.console, refresh_per_second=4, transient=False) as live:
                while calls.running:
                    nodes = await door.nodes()
                    self.watch.see(nodes)
                    elapsed_s = time.monotonic() - began_s
                    live.update(table(nodes, self.watch, calls.so_far(), elapsed_s))
                    await asyncio.sleep(POLL_S)
            self.watch.stats = await door.stats()
            await breaking
        finally:
            breaking.cancel()
            await door.close()

    async def _break(self, fleet: LabFleet, door: Fleet) -> None:
        victims = fleet.nodes["east-2"], fleet.nodes["west-1"]
        await asyncio.sleep(KILL_AT_S)
        since_s = time.monotonic()
        await asyncio.to_thread(victims[0].kill)
        await self._detected(fleet.config, door, "east-2", "killed", since_s)
        await asyncio.sleep(FREEZE_AT_S - KILL_AT_S)
        since_s = time.monotonic()
        await asyncio.to_thread(victims[1].freeze)
        await self._detected(fleet.config, door, "west-1", "frozen", since_s)
        await asyncio.sleep(MEND_AT_S - FREEZE_AT_S)
        victims[1].thaw()
        await asyncio.to_thread(victims[0].restart)
        self.watch.events.append("east-2 is started again, west-1 thawed: both ramp up")

    async def _detected(
        self, config: Config, door: Fleet, name: str, how: str, since_s: float
    ) -> None:
        """Until placement no longer gives the node, asked the way an edge asks."""
        region = config.nodes[name].region
        while True:
            fit = {n.name for n in await door.nodes() if n.state in ("active", "joining")}
            verdict = await door.route(secrets.token_hex(8), region, "", "9196", dry=True)
            if name not in fit and not (isinstance(verdict, Placed) and verdict.node == name):
                break
            await asyncio.sleep(0.005)
        took_ms = (time.monotonic() - since_s) * 1000
        self.watch.detected_ms[how] = took_ms
        self.watch.events.append(f"{name} was {how}: out of placement after {took_ms:.0f} ms")

    def _summary(self, result: CallsResult) -> int:
        watch = self.watch
        placed = sum(n for kind, n in watch.stats.items() if not kind.startswith("reject"))
        spilled = sum(n for kind, n in watch.stats.items() if kind.startswith("spill"))
        p50, p99 = result.setup_ms(0.5), result.setup_ms(0.99)
        rows = [
            ("calls sent", f"{result.attempted}"),
            ("placed", f"{placed}, of them {spilled} in another region"),
            ("answered", f"{result.answered}"),
            ("refused or failed", f"{result.failed}  {_codes(result)}"),
            *((f"no node: {why}", f"{n}") for why, n in _refusals(watch.stats)),
            ("ended in order", f"{result.completed} (a killed or frozen node takes its own down)"),
            ("INVITE to answer", f"p50 {p50:.0f} ms, p99 {p99:.0f} ms"),
            ("most/mean in a region", _median(watch.spread)),
            *((f"{how} node noticed", f"{ms:.0f} ms") for how, ms in watch.detected_ms.items()),
            ("over-allocations", f"{watch.over_limit}"),
        ]  # fmt: skip
        grid = Table(title="summary", show_header=False)
        for row in rows:
            grid.add_row(*row)
        self.console.print(grid)
        good = result.answered == result.attempted == CALLS and watch.over_limit == 0
        self.say("every call was answered" if good else "NOT every call was answered")
        return 0 if good and len(watch.detected_ms) == 2 else 1


def _codes(result: CallsResult) -> str:
    return ", ".join(f"{n} × {code}" for code, n in sorted(result.codes.items()) if code != 200)


def _median(shares: list[float]) -> str:
    return f"{statistics.median(shares):.2f}" if shares else "-"


def _refusals(stats: dict[str, int]) -> list[tuple[str, int]]:
    return [(kind.partition(":")[2], n) for kind, n in sorted(stats.items()) if "reject:" in kind]


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, _interrupted)
    console = Console(no_color="NO_COLOR" in os.environ or None)
    demo = Demo(console)
    try:
        return demo.run()
    except KeyboardInterrupt:
        demo.say("interrupted; everything it started is stopped")
        return 130
    except LabError as error:
        console.print(f"[red]demo:[/] {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
