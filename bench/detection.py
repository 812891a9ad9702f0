"""From a kill or freeze of a real Asterisk to the moment when `route` no longer gives that node.

Each node has a region of its own without spill-over, so `route_dry` for that region gives the node
or nothing: it is asked in turn for every region, every few milliseconds, all the while. ROTATING
nodes are broken and mended, each on its own, out of step with the others; BYSTANDERS never are.
An Asterisk is driven by the driver role in a process of its own, as in production.

A false positive: a node that was not broken at that time and yet was not given. A node counts as
broken from the signal until it is given again for the first time.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import redis

from bench.figures import Figure, Report, percentile
from controller.fleet.keys import prefix
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.until import until

ROTATING = 5
BYSTANDERS = 2
POLL_S = 0.002
BACK_TIMEOUT_S = 30.0
#: a node is left alone for so long after it came back, so that each break meets a settled fleet
SETTLE_S = 0.5


@dataclass
class Watched:
    """What the poll knows of one node. given: by the last answer. gone_at, back_at: when an answer
    changed, by the monotonic clock; broken_at: of the signal, None while the node is whole."""

    given: bool = False
    gone_at: float = 0.0
    back_at: float = 0.0
    broken_at: float | None = None


@dataclass
class Watch:
    """Asks about every node in turn until stopped."""

    url: str
    fleet: str
    nodes: dict[str, Watched]
    false_positives: list[str] = field(default_factory=list)
    polls: int = 0
    slowest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        client = redis.Redis.from_url(self.url)
        last = time.monotonic()
        while not self.over.is_set():
            for name, node in self.nodes.items():
                reply: Any = client.execute_command(
                    "FCALL_RO",
                    "route_dry",
                    1,
                    prefix(self.fleet),
                    "bench-poll",
                    name,
                    "100",
                    "9196",
                )
                self._note(name, node, reply)
            now = time.monotonic()
            self.slowest_s, last = max(self.slowest_s, now - last), now
            self.polls += 1
            self.over.wait(POLL_S)
        client.close()

    def _note(self, name: str, node: Watched, reply: list[bytes]) -> None:
        given = reply[0] == b"place"
        with self.lock:
            if given == node.given:
                return
            node.given = given
            if given:
                node.back_at = time.monotonic()
                node.broken_at = None
            else:
                node.gone_at = time.monotonic()
                if node.broken_at is None:
                    self.false_positives.append(f"{name}: {reply[7].decode()}")

    def breaks(self, name: str) -> float:
        """From here on the node counts as broken; the time."""
        with self.lock:
            now = time.monotonic()
            self.nodes[name].broken_at = now
            return now


def _rounds(watch: Watch, node: Asterisk, kinds: list[str]) -> dict[str, list[float]]:
    """Breaks and mends one node, as often as `kinds` says; the times until it was not given."""
    took: dict[str, list[float]] = {"kill": [], "freeze": []}
    seen = watch.nodes[node.name]
    for kind in kinds:
        until(lambda: seen.given, BACK_TIMEOUT_S, f"{node.name} is given again")
        time.sleep(SETTLE_S + random.random())
        broken_at = watch.breaks(node.name)
        if kind == "kill":
            node.kill()
        else:
            node.freeze()
        until(lambda: not seen.given, 10, f"{node.name} is not given after a {kind}")
        took[kind].append(seen.gone_at - broken_at)
        if kind == "kill":
            node.start()
        else:
            node.thaw()
    until(lambda: seen.given, BACK_TIMEOUT_S, f"{node.name} is given again")
    return took


def run(*, quick: bool) -> Report:
    each = 5 if quick else 100
    rotating = 2 if quick else ROTATING
    took: dict[str, list[float]] = {"kill": [], "freeze": []}
    started = time.monotonic()
    with Lab() as lab:
        nodes = [lab.asterisk(f"n{i}") for i in range(rotating + BYSTANDERS)]
        regions: dict[Asterisk | FreeSwitch, str] = {node: node.name for node in nodes}
        server = lab.redis()
        alone: dict[str, Any] = {"regions": {node.name: {} for node in nodes}}
        with LabFleet(lab, regions, redis=server, settings=alone) as fleet:
            fleet.start("driver")
            fleet.until_active()
            watch = Watch(server.socket_url, "lab", {node.name: Watched() for node in nodes})
            for node in nodes:  # not yet seen as given
                watch.breaks(node.name)
            with ThreadPoolExecutor(rotating + 1) as pool:
                watching = pool.submit(watch.run)
                try:
                    shares = [
                        ["kill", "freeze"] * len(range(i, each, rotating)) for i in range(rotating)
                    ]
                    for done in [
                        pool.submit(_rounds, watch, node, share)
                        for node, share in zip(nodes, shares, strict=False)
                    ]:
                        for kind, times in done.result().items():
                            took[kind] += times
                finally:
                    watch.over.set()
                    watching.result()
    minutes = (time.monotonic() - started) / 60
    figures = []
    for kind, goal in (("kill", "≤ 250"), ("freeze", "≤ 2000")):
        ms = [1000 * s for s in took[kind]]
        figures += [
            Figure(f"{kind}_p99_ms", percentile(ms, 0.99), f"signal to not given, {kind}", goal),
            Figure(f"{kind}_p50_ms", percentile(ms, 0.5), "its median"),
            Figure(f"{kind}_max_ms", max(ms), "its worst"),
            Figure(f"{kind}s", len(ms), "how many"),
        ]
    for reason in watch.false_positives:
        print(f"false positive: {reason}")
    figures += [
        Figure(
            "false_positives", len(watch.false_positives), "nodes not broken, yet not given", "≤ 0"
        ),
        Figure("poll_ms", 1000 * 60 * minutes / max(1, watch.polls), "mean time between two looks"),
        Figure("poll_max_ms", 1000 * watch.slowest_s, "the longest: an error bound of each time"),
        Figure("minutes", minutes, "the whole run"),
    ]
    setup = (
        f"{rotating} Asterisk nodes broken in turn beside {BYSTANDERS} never touched, "
        f"{each} kills (SIGKILL) and {each} freezes (SIGSTOP), no call load, one driver"
    )
    return Report("detection", quick, setup, tuple(figures))
