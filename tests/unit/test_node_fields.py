"""What placement reads of a node in one piece is what stands in its fields, and how it ramps up."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import redis.asyncio as redis

from controller.fleet.functions import Fleet
from controller.fleet.state import Beat, Lease
from controller.model import CallEnded, CallStarted, Placed
from tests.redis_server import RedisServer

POLICY: dict[str, Any] = {
    "spill_above": 0.85,
    "reservation_ms": 5000,
    "silent_ms": 60_000,
    "ramp_ms": 0,
    "admit": {"low": 0.9, "normal": 1, "high": 1},
    "reject_cause": 503,
    "retry_after_s": 4,
    "regions": {"east": []},
    "numbers": {},
}
FLAT = {
    "region", "address", "weight", "calls_max", "channels_max", "rate_max", "want", "link", "sip",
    "synced", "seen", "since", "hold", "channels", "cpu",
}  # fmt: skip


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    with RedisServer() as server:
        fleet = Fleet(redis.Redis.from_url(server.url), "t")
        await fleet.set_policy(POLICY)
        yield fleet
        await fleet.close()


async def join(fleet: Fleet, *names: str) -> dict[str, Lease]:
    leases = {lease.node: lease for lease in await fleet.claim("d", 60_000, names)}
    for name, lease in leases.items():
        facts = {"region": "east", "address": f"{name}:5060", "kind": "asterisk", "weight": 1,
                 "calls_max": 1000, "owner": "d"}  # fmt: skip
        await fleet.register(lease, facts)
        await fleet.client.hset(f"pbx:{{t}}:node:{name}", "hold", "0")
        await fleet.beat(lease, Beat(link=True))
        await fleet.reconcile(lease, [])
    return leases


async def in_step(fleet: Fleet, name: str) -> None:
    raw = await fleet.read_hash(f"node:{name}")
    fields = {k.decode(): v for k, v in raw.items()}
    flat = msgspec.msgpack.decode(fields.pop("flat"))
    shown = {k: v.decode() for k, v in fields.items() if k in FLAT}
    assert set(flat) == set(shown)
    for field, value in flat.items():
        same = value == shown[field] if isinstance(value, str) else value == float(shown[field])
        assert same, (field, value, shown[field])


async def test_every_word_of_a_driver_or_operator_reaches_the_flat_copy(fleet: Fleet) -> None:
    lease = (await join(fleet, "a"))["a"]
    await in_step(fleet, "a")
    await fleet.beat(lease, Beat(link=True, sip=False, channels=7, cpu=0.4, channels_max=50))
    await in_step(fleet, "a")
    await fleet.want("a", "draining")
    await in_step(fleet, "a")
    await fleet.want("a", "active")
    await in_step(fleet, "a")
    await fleet.host_report("a", 0.9, 3.0)
    await in_step(fleet, "a")
    await fleet.events(lease, [CallStarted("1", ""), CallEnded("1")])
    await in_step(fleet, "a")
    await fleet.beat(lease, Beat(link=False))
    await in_step(fleet, "a")
    await fleet.release("d", ["a"])
    await fleet.claim("e", 60_000, ["a"])
    await in_step(fleet, "a")


async def test_a_full_host_sends_calls_to_the_other_node(fleet: Fleet) -> None:
    await join(fleet, "a", "b")
    for _ in range(8):  # smoothed over 3 s
        await fleet.host_report("a", 1.0, 9.0)
    verdicts = [await fleet.route(f"c{n}", "east", "1", "2") for n in range(20)]
    assert {v.node for v in verdicts if isinstance(v, Placed)} == {"b"}


async def test_nodes_that_come_back_together_are_measured_by_the_steady_one(fleet: Fleet) -> None:
    """Two empty nodes in their ramp beside a loaded one that is not: neither gets many more
    arrivals than that one, so it still takes nearly a third. By load alone it would get none."""
    leases = await join(fleet, "a", "b", "steady")
    await fleet.events(leases["steady"], [CallStarted(f"s{n}", "") for n in range(800)])
    await fleet.load()  # the arrival rates are forgotten with the library: these calls are old
    await fleet.set_policy(POLICY | {"ramp_ms": 3_600_000})
    for name in ("a", "b"):
        await fleet.want(name, "draining")
        await fleet.want(name, "active")
    await fleet.client.hset("pbx:{t}:node:steady", "since", "0")
    await fleet.beat(leases["steady"], Beat(link=True))
    got: Counter[str] = Counter()
    for n in range(90):
        verdict = await fleet.route(f"c{n}", "east", "1", "2")
        assert isinstance(verdict, Placed)
        got[verdict.node] += 1
    assert got["steady"] >= 20, got
    assert min(got["a"], got["b"]) >= 15, got
