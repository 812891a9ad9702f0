"""A node restarts at 80 % fleet load: what it gets in its first 10 s, ours beside algorithm 10.

Real Asterisk nodes behind a real Kamailio; SIPp keeps LOAD of the fleet's limit busy. One node is
killed with its calls and started again at once. Each node's own counters tell how many calls it has
and had, so both systems are judged by the same witness. The fair share is one node's part of all
calls that arrive in these 10 s, counted from the first call that the restarted node gets.

no_ramp is the control: our placement by load alone, as it would be without the ramp. With
algorithm 10 Kamailio goes on counting the dead calls of the killed node until their callers hang
up, which happens to keep it from herding here.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.edges import start_alg10, start_ours
from bench.figures import Figure, Report, percentile
from controller.routing.policy import policy
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.sipp import CallsResult
from tests.lab.until import until

NODES = 4
CALLS_MAX = 40
LOAD = 0.8
FIRST_S = 10.0
RAMP_S = 30
SAMPLE_S = 0.25


@dataclass(frozen=True)
class Sample:
    """One look at all nodes. active: calls now; processed: since the node's start."""

    at_s: float
    active: tuple[int, ...]
    processed: tuple[int, ...]


class Witness:
    """Looks at the nodes' own counters until stopped. A node that does not answer has no calls."""

    def __init__(self, nodes: Sequence[Asterisk]) -> None:
        self._nodes = nodes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._main)
        self.samples: list[Sample] = []

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _main(self) -> None:
        while not self._over.wait(SAMPLE_S):
            looks = [_counters(node) for node in self._nodes]
            active, processed = zip(*looks, strict=True)
            self.samples.append(Sample(time.monotonic(), active, processed))


def _counters(node: Asterisk) -> tuple[int, int]:
    try:
        text = node.cli("core show calls")
    except (OSError, RuntimeError):
        return 0, 0
    active = re.search(r"(\d+) (?:of \d+ max )?active call", text)
    processed = re.search(r"(\d+) calls? processed", text)
    return int(active[1]) if active else 0, int(processed[1]) if processed else 0


@dataclass(frozen=True)
class Outcome:
    """share: the node's calls over one node's fair share. back_s: from ready to its first call.

    refused: of the whole run. over_limit: looks at which a node had more calls than its limit.
    slow: calls answered only after more than 1 s.
    """

    share: float
    back_s: float
    refused: int
    most_over_mean: float
    over_limit: int
    slow: int
    setup_p99_ms: float


def _restart(lab: Lab, edge: str, nodes: Sequence[Asterisk], hold_s: float) -> Outcome:
    """Fills the fleet through `edge`, restarts the first node, and judges what follows."""
    rate = LOAD * NODES * CALLS_MAX / hold_s
    before_s, after_s = hold_s + 4, FIRST_S + 8
    count = round(rate * (before_s + after_s))
    with Witness(nodes) as witness:
        load = lab.calls(edge, count=count, rate_per_s=rate, hold_s=hold_s, audio=False)
        time.sleep(before_s)
        nodes[0].restart()
        ready_s = time.monotonic()
        result = load.result()
    return _judge(witness.samples, ready_s, result)


def _judge(samples: Sequence[Sample], ready_s: float, result: CallsResult) -> Outcome:
    taking = [s for s in samples if s.at_s >= ready_s and s.processed[0] > 0]
    if not taking:
        raise RuntimeError("the restarted node got no call at all")
    first = taking[0]
    window = [s for s in taking if s.at_s <= first.at_s + FIRST_S]
    base = [s for s in samples if s.at_s < first.at_s][-1]
    got = window[-1].processed[0]
    others = sum(window[-1].processed[1:]) - sum(base.processed[1:])
    loads = [max(s.active) / (sum(s.active) / NODES) for s in window if sum(s.active)]
    return Outcome(
        share=got / ((got + others) / NODES),
        back_s=first.at_s - ready_s,
        refused=result.failed,
        most_over_mean=percentile(loads, 1.0),
        over_limit=sum(any(n > CALLS_MAX for n in s.active) for s in samples),
        slow=sum(c.answered and c.setup_ms > 1000 for c in result.calls),
        setup_p99_ms=result.setup_ms(0.99),
    )


def _idle(nodes: Sequence[Asterisk]) -> None:
    until(lambda: all(_counters(n)[0] == 0 for n in nodes), 30, "the nodes are empty")


def run(*, quick: bool) -> Report:
    hold_s = 6.0 if quick else 20.0
    with Lab() as lab:
        nodes = [lab.asterisk(f"n{i}", calls_max=CALLS_MAX) for i in range(NODES)]
        edges = {n: {"region": "east", "sip": f"{lab.address()}:5060"} for n in ("ours", "alg10")}
        settings = {"edges": edges, "placement": {"reservation_s": 5, "ramp_s": RAMP_S}}
        seen: dict[str, Outcome] = {}
        regions: dict[Asterisk | FreeSwitch, str] = dict.fromkeys(nodes, "east")
        with LabFleet(lab, regions, lab.redis(), calls_max=CALLS_MAX, settings=settings) as fleet:
            fleet.start("driver")
            until(lambda: len(fleet.views()) == NODES, 20, "the nodes are known")
            until(lambda: all(v.reason in ("", "ramping up") for v in fleet.views().values()), 20,
                  "the nodes are placed on")  # fmt: skip
            ours = start_ours(lab, fleet.config, "ours")
            seen["ours"] = _restart(lab, edges["ours"]["sip"], nodes, hold_s)
            _idle(nodes)
            flat = policy(fleet.config) | {"ramp_ms": 0}
            fleet.ask(lambda door: door.set_policy(flat))
            seen["no_ramp"] = _restart(lab, edges["ours"]["sip"], nodes, hold_s)
            _idle(nodes)
            ours.stop()
            maxload = dict.fromkeys((node.name for node in nodes), CALLS_MAX)
            start_alg10(lab, fleet.config, "alg10", maxload)
            seen["alg10"] = _restart(lab, edges["alg10"]["sip"], nodes, hold_s)
    figures = []
    for name, got in seen.items():
        p = "" if name == "ours" else f"{name}_"
        figures += [
            Figure(
                f"{p}share_of_fair", got.share, f"{name}: calls in its first 10 s over a fair part"
            ),
            Figure(f"{p}refused", got.refused, f"{name}: calls not answered in the whole run"),
            Figure(f"{p}most_over_mean", got.most_over_mean, f"{name}: the worst in these 10 s"),
            Figure(f"{p}slow_calls", got.slow, f"{name}: answered, but after more than 1 s"),
            Figure(f"{p}setup_p99_ms", got.setup_p99_ms, f"{name}: INVITE to 200"),
            Figure(f"{p}back_s", got.back_s, f"{name}: from Asterisk ready to its first call"),
            Figure(f"{p}over_limit", got.over_limit, f"{name}: looks with a node above its limit"),
        ]
    setup = (
        f"{NODES} Asterisk nodes of {CALLS_MAX} calls, {LOAD:.0%} busy, calls of {hold_s:g} s, "
        f"ramp of {RAMP_S} s; alg 10 with maxload={CALLS_MAX}"
    )
    return Report("herd", quick, setup, tuple(figures))
