"""Among many nodes that fill, drain and come back, each call goes to the least loaded."""

from __future__ import annotations

import random

from controller.fleet.functions import Fleet
from controller.model import CallTruth, Placed
from tests.unit.test_functions import add, fleet, server

__all__ = ["fleet", "server"]

NODES = 30
CALLS = 150


async def test_each_call_goes_to_the_least_loaded_of_many(fleet: Fleet) -> None:
    chance = random.Random(7)
    leases = {}
    for n in range(NODES):
        name, most = f"e{n}", chance.randint(5, 60)
        leases[name] = await add(fleet, name, calls_max=most)
        calls = [CallTruth(f"{name}-{i}") for i in range(chance.randint(0, most // 2))]
        await fleet.reconcile(leases[name], calls)
    drained: set[str] = set()
    for n in range(CALLS):
        if n % 5 == 0:
            name = chance.choice(sorted(leases))
            await fleet.want(name, "active" if name in drained else "draining")
            drained ^= {name}
        load = {v.name: v.load for v in await fleet.nodes() if v.want == "active"}
        verdict = await fleet.route(f"c{n}", "east", "1", "2", "high")
        assert isinstance(verdict, Placed)
        assert load[verdict.node] < min(load.values()) + 1e-9
