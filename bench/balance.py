"""How even nodes' CPU stays while it is their fullest signal and readings of it come late.

NODES simulated nodes, every other one half as fast, take calls at random moments, each for a random
time. Every node's CPU is told once a second, as the mean of that second, with noise; the library
smooths it over three. The control is the same library with readings taken as they are told.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from dataclasses import dataclass, field

import redis.asyncio as redis

from bench.figures import Figure, Report, middle, percentile
from bench.simulated import SimulatedNodes
from controller.fleet.library import library
from controller.fleet.state import Beat, Lease
from controller.model import CallAnswered, CallEnded, CallStarted, Placed
from tests.redis_server import RedisServer

NODES = 10
CALLS_MAX = 1000
RATE_PER_S, HOLD_S = 150.0, 10.0
CPU_PER_CALL = 0.003  # of the fast ones; the slow ones need twice that
NOISE = 0.02
BEAT_S, TELL_S, TICK_S = 0.5, 1.0, 0.002
WHOLE_LINE = b"return fullest - rise * calls, rise"
CONTROL_LINE = b"return fullest, 0"


@dataclass
class Machine:
    """A node's host. busy_s: its CPU time, a full second being 1, since it was last told."""

    lease: Lease
    cpu_per_call: float
    calls: int = 0
    busy_s: float = 0.0

    @property
    def cpu(self) -> float:
        return self.calls * self.cpu_per_call


@dataclass
class Outcome:
    """cpu_spread: the busiest host's CPU over the mean of all, at each beat. busiest: that CPU."""

    cpu_spread: list[float] = field(default_factory=list)
    busiest: list[float] = field(default_factory=list)
    placed: int = 0
    refused: int = 0


class Run:
    """Calls on the nodes of one fleet, from `play` on; the first third of it is not judged."""

    def __init__(self, nodes: SimulatedNodes, leases: list[Lease]) -> None:
        self._fleet = nodes.fleet
        self._region = nodes.region
        self._machines = {
            lease.node: Machine(lease, CPU_PER_CALL * (1 + at % 2))
            for at, lease in enumerate(leases)
        }
        self._ends: list[tuple[float, str, str]] = []
        self._dice = random.Random(1)
        self.outcome = Outcome()

    async def play(self, seconds: float) -> Outcome:
        began_s = time.monotonic()
        last_s = next_call_s = next_beat_s = told_s = 0.0
        while (now_s := time.monotonic() - began_s) < seconds:
            for machine in self._machines.values():
                machine.busy_s += (now_s - last_s) * min(1, machine.cpu)
            last_s = now_s
            while self._ends and self._ends[0][0] <= now_s:
                await self._end()
            while next_call_s <= now_s:
                next_call_s += self._dice.expovariate(RATE_PER_S)
                await self._call(now_s)
            if next_beat_s <= now_s:
                next_beat_s += BEAT_S
                period_s = now_s - told_s
                await self._beat(period_s if period_s >= TELL_S else None)
                told_s = now_s if period_s >= TELL_S else told_s
                if now_s > seconds / 3:
                    self._look()
            await asyncio.sleep(TICK_S)
        return self.outcome

    async def _call(self, now_s: float) -> None:
        number = self.outcome.placed + self.outcome.refused
        verdict = await self._fleet.route(f"{number}@bench.example", self._region, "100", "9196")
        if not isinstance(verdict, Placed):
            self.outcome.refused += 1
            return
        self.outcome.placed += 1
        machine, pbx_id = self._machines[verdict.node], f"on-{number}"
        machine.calls += 1
        started = CallStarted(pbx_id, verdict.placement, "100", "9196")
        await self._fleet.events(machine.lease, [started, CallAnswered(pbx_id)])
        end_s = now_s + self._dice.expovariate(1 / HOLD_S)
        heapq.heappush(self._ends, (end_s, verdict.node, pbx_id))

    async def _end(self) -> None:
        _, node, pbx_id = heapq.heappop(self._ends)
        machine = self._machines[node]
        machine.calls -= 1
        await self._fleet.events(machine.lease, [CallEnded(pbx_id, 16)])

    async def _beat(self, period_s: float | None) -> None:
        for machine in self._machines.values():
            cpu = None
            if period_s:
                cpu = machine.busy_s / period_s + self._dice.gauss(0, NOISE)
                machine.busy_s = 0
            told = Beat(link=True, sip=True, cpu=None if cpu is None else min(1, max(0, cpu)))
            await self._fleet.beat(machine.lease, told)

    def _look(self) -> None:
        cpu = [machine.cpu for machine in self._machines.values()]
        self.outcome.cpu_spread.append(max(cpu) / (sum(cpu) / len(cpu)))
        self.outcome.busiest.append(max(cpu))


async def _measure(code: bytes, seconds: float) -> Outcome:
    with RedisServer() as server:
        client = redis.Redis.from_url(server.url)
        await client.function_load(code.decode(), replace=True)
        names = {f"n{i}": f"192.0.2.1:{5060 + i}" for i in range(NODES)}
        nodes = SimulatedNodes(client, "f", names, calls_max=CALLS_MAX)
        leases = await nodes.join()
        outcome = await Run(nodes, leases).play(seconds)
        await client.aclose()
    return outcome


def run(*, quick: bool) -> Report:
    seconds = 15.0 if quick else 60.0
    code = library()
    control = code.replace(WHOLE_LINE, CONTROL_LINE)
    if control == code:
        raise RuntimeError(f"lua/redis/ has no line {WHOLE_LINE.decode()!r} for the control")
    figures: list[Figure] = []
    for prefix, source, who in (("", code, "ours"), ("as_told_", control, "control")):
        got = asyncio.run(_measure(source, seconds))
        figures += [
            Figure(
                f"{prefix}cpu_most_over_mean",
                middle(got.cpu_spread),
                f"{who}: the busiest host's CPU over the mean, median of the looks",
            ),
            Figure(
                f"{prefix}cpu_most_over_mean_p99",
                percentile(got.cpu_spread, 0.99),
                f"{who}: its 99th percentile",
            ),
            Figure(
                f"{prefix}busiest_cpu",
                percentile(got.busiest, 1.0),
                f"{who}: what the busiest host was asked for at worst; above 1 it has not got it",
            ),
            Figure(f"{prefix}placed", got.placed, f"{who}: calls placed"),
            Figure(f"{prefix}refused", got.refused, f"{who}: calls refused"),
        ]
    setup = (
        f"{NODES} simulated nodes of {CALLS_MAX} calls, half of them half as fast, "
        f"{RATE_PER_S:g} calls/s of {HOLD_S:g} s in the mean, CPU told once a second; "
        f"{seconds:g} s each"
    )
    return Report("balance", quick, setup, tuple(figures))
