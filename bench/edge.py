"""CPU per call of Kamailio + Redis with our route against Kamailio with dispatcher algorithm 10.

The same SIPp load goes to both edges in turn, onto the same SIPp nodes that answer at once. CPU is
what /proc says of all of Kamailio's processes and of redis-server. Our edge has two windows a
round: one in which the nodes only beat, so that Redis's share is that of placing calls (cpu_ratio),
and one in which every call is also confirmed, answered and ended by events (cpu_ratio_with_events):
that is what the picture costs besides, which algorithm 10 does not have. The drivers are simulated
(SIPp has no control port); their own CPU is not counted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio as redis

from bench.edges import start_alg10, start_ours
from bench.figures import Figure, Report, middle, percentile
from bench.processes import cpu_of_all_s, cpu_s, session_pids
from bench.simulated import SimulatedNodes
from controller.config import (
    Config,
    EdgeConfig,
    NodeConfig,
    RedisConfig,
    RegionConfig,
    SecurityConfig,
)
from controller.model import Kind
from tests.lab.lab import Lab
from tests.lab.services import Program, Redis
from tests.lab.sipp import CallsResult

NODES = 4
RATE_PER_S = 250
HOLD_S = 0.5
BEAT_S = 0.4
EVENTS_S = 0.05


@dataclass(frozen=True)
class Window:
    """One load on one edge; microseconds of CPU a call."""

    kamailio_us: float
    redis_us: float
    result: CallsResult


class Drivers:
    """The nodes' drivers, simulated, in a thread of their own."""

    def __init__(self, url: str, fleet: str, nodes: dict[str, Uas], calls_max: int) -> None:
        self._made = (url, fleet, nodes, calls_max)
        self._ready = threading.Event()
        self._over = threading.Event()
        #: set: calls are told of; clear: their reservations end by themselves
        self.telling = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main)

    def __enter__(self) -> Drivers:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # told at the end, by the thread that waits
            self._error = error

    async def _run(self) -> None:
        url, fleet, uas, calls_max = self._made
        client = redis.Redis.from_url(url)
        names = {name: each.sip for name, each in uas.items()}
        nodes = SimulatedNodes(client, fleet, names, calls_max=calls_max)
        await nodes.join()
        self._ready.set()
        talking: list[tuple[float, dict[str, list[str]]]] = []
        beaten = 0.0
        while not self._over.is_set():
            now = time.monotonic()
            if now - beaten >= BEAT_S:
                await nodes.beat()
                beaten = now
            shown = {name: each.shown() for name, each in uas.items()}
            if self.telling.is_set():
                await nodes.confirm(shown)
                talking.append((now, shown))
            while talking and now - talking[0][0] >= HOLD_S:
                await nodes.end(talking.pop(0)[1])
            await asyncio.sleep(EVENTS_S)
        await client.aclose()


class Uas:
    """A SIPp node. sip: where it listens."""

    def __init__(self, lab: Lab, name: str) -> None:
        log = lab.run.folder / f"{name}.placements"
        self.sip = _start_uas(lab, name, log)
        self._log = log.open("rb")

    def shown(self) -> list[str]:
        """Placements of the calls that came since it was last asked; of those that had one."""
        return self._log.read().decode().split()


def _start_uas(lab: Lab, name: str, log: Path) -> str:
    scenario = lab.run.folder / "uas.xml"
    if not scenario.exists():
        scenario.write_bytes((Path(__file__).parent / "uas.xml").read_bytes())
    address = lab.address()
    argv = ["chroot", str(lab.run.root), "sipp", "-sf", str(lab.run.inside(scenario))]
    argv += ["-i", address, "-p", "5060", "-nostdin", "-aa", "-nd"]
    argv += ["-trace_logs", "-log_file", str(lab.run.inside(log))]
    started = time.monotonic()
    lab.program(name, argv, ready=lambda: time.monotonic() - started > 0.5 and log.exists())
    return f"{address}:5060"


def _config(lab: Lab, server: Redis, nodes: dict[str, str]) -> Config:
    edges = {
        name: EdgeConfig(region="east", sip=f"{lab.address()}:5060") for name in ("ours", "alg10")
    }
    return Config(
        fleet="edge",
        nodes={
            name: NodeConfig(
                kind=Kind.ASTERISK, region="east", sip=sip, control=sip, password_file="none"
            )
            for name, sip in nodes.items()
        },
        regions={"east": RegionConfig()},
        edges=edges,
        redis=RedisConfig(url=server.socket_url),
        security=SecurityConfig(signalling="plain", media="plain", control="plain"),
        state_dir=str(lab.run.folder / "edge-state"),
        source=str(lab.run.folder / "bench.yaml"),
    )


def _window(lab: Lab, edge: Program, sip: str, server: Redis | None, calls: int) -> Window:
    pids = session_pids(edge.pid)
    before = cpu_of_all_s(pids), cpu_s(server.pid) if server else 0.0
    load = lab.calls(sip, count=calls, rate_per_s=RATE_PER_S, hold_s=HOLD_S, audio=False)
    result = load.result()
    after = cpu_of_all_s(pids), cpu_s(server.pid) if server else 0.0
    spent = [(b - a) / calls * 1e6 for a, b in zip(before, after, strict=True)]
    return Window(spent[0], spent[1], result)


def _ratio(ours: list[Window], alg10: list[Window]) -> float:
    pairs = zip(ours, alg10, strict=True)
    return middle([(x.kamailio_us + x.redis_us) / y.kamailio_us for x, y in pairs])


def run(*, quick: bool) -> Report:
    calls = 5 * RATE_PER_S if quick else 15 * RATE_PER_S
    rounds = 1 if quick else 5
    seen: dict[str, list[Window]] = defaultdict(list)
    with Lab() as lab:
        uas = {f"n{i}": Uas(lab, f"uas{i}") for i in range(NODES)}
        nodes = {name: each.sip for name, each in uas.items()}
        server = lab.redis()
        config = _config(lab, server, nodes)
        with Drivers(server.socket_url, config.fleet, uas, calls_max=1000) as drivers:
            ours = start_ours(lab, config, "ours")
            alg10 = start_alg10(lab, config, "alg10", dict.fromkeys(nodes, 1000))
            for edge in (ours, alg10):  # workers connect to Redis at their first call
                sip = config.edges[edge.name].sip
                lab.calls(sip, count=100, rate_per_s=50, hold_s=HOLD_S, audio=False).result()
            for _ in range(rounds):
                # Between the windows without and with events lies one of alg10: time enough for the
                # reservations of the first to end.
                for name, edge, telling in (
                    ("ours", ours, False),
                    ("alg10", alg10, False),
                    ("ours_with_events", ours, True),
                ):
                    if telling:
                        drivers.telling.set()
                    else:
                        drivers.telling.clear()
                    counted = server if edge is ours else None
                    sip = config.edges[edge.name].sip
                    seen[name].append(_window(lab, edge, sip, counted, calls))
    a, b, c = seen["ours"], seen["alg10"], seen["ours_with_events"]
    figures = [
        Figure(
            "cpu_ratio", _ratio(a, b), "Kamailio + Redis, ours, over Kamailio, alg 10", "≤ 1.25"
        ),
        Figure("cpu_ratio_with_events", _ratio(c, b), "the same with what the events cost Redis"),
        Figure("kamailio_us", middle([w.kamailio_us for w in a]), "Kamailio's CPU a call, ours"),
        Figure("redis_us", middle([w.redis_us for w in a]), "Redis's CPU a call, beats included"),
        Figure(
            "redis_with_events_us", middle([w.redis_us for w in c]), "with the events of the call"
        ),
        Figure("alg10_kamailio_us", middle([w.kamailio_us for w in b]), "Kamailio's, alg 10"),
    ]
    for name, windows in seen.items():
        setup = [c.setup_ms for w in windows for c in w.result.calls if c.answered]
        refused = sum(w.result.failed for w in windows)
        figures += [
            Figure(f"{name}_p50_ms", percentile(setup, 0.5), "INVITE to 200"),
            Figure(f"{name}_p99_ms", percentile(setup, 0.99), "INVITE to 200"),
            Figure(f"{name}_calls", len(setup), "answered"),
            Figure(f"{name}_failed", refused, "not answered"),
        ]
    text = (
        f"{rounds} rounds, {calls} calls to each edge in turn at {RATE_PER_S}/s held {HOLD_S} s, "
        f"{NODES} SIPp nodes, Kamailio with 4 workers, Redis over its unix socket"
    )
    return Report("edge", quick, text, tuple(figures))
