"""Another Redis server with the fleet's data, or an old copy of it: nothing is placed twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis

from controller.errors import StaleEpoch
from controller.fleet.functions import Fleet
from controller.fleet.library import library
from controller.fleet.state import Beat, Lease
from controller.model import CallTruth, NodeState, Placed, Rejected
from tests.redis_server import RedisServer
from tests.unit.test_functions import POLICY, add, place, view

RESERVED_S = POLICY["reservation_ms"] / 1000
OWNER = "driver of e1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Fleet, Fleet]]:
    """A primary and its replica, as doors to one fleet."""
    ports = free_port(), free_port()
    listen = ("--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0", "--port")
    primary = RedisServer(*listen, str(ports[0]))
    replica = RedisServer(*listen, str(ports[1]), "--replicaof", f"127.0.0.1 {ports[0]}")
    with primary, replica:
        doors = [Fleet(redis.Redis.from_url(s.url), "unit") for s in (primary, replica)]
        await doors[0].set_policy(POLICY)
        await doors[0].lead("steward", "s", 60_000)
        while not await doors[0].client.wait(1, 100):
            await asyncio.sleep(0.05)
        yield doors[0], doors[1]
        for door in doors:
            await door.close()


async def promote(primary: Fleet, replica: Fleet, *, lose_last: bool = False) -> None:
    if not lose_last:
        await primary.client.wait(1, 2000)
    await replica.client.execute_command("REPLICAOF", "NO", "ONE")


async def again(fleet: Fleet) -> Lease:
    """What a driver does after its next `claim`: a new lease, the node's own list, a beat."""
    lease = (await fleet.claim(OWNER, 60_000, ["e1"]))[0]
    await fleet.register(lease, {"region": "east", "address": "e1:5060", "kind": "asterisk",
                                 "weight": 1, "calls_max": 10, "owner": "test"})  # fmt: skip
    await fleet.reconcile(lease, [CallTruth("p1", answered=True)])
    await fleet.beat(lease, Beat(True))
    return lease


async def test_a_replica_that_takes_over_waits_for_what_it_may_not_know(
    pair: tuple[Fleet, Fleet],
) -> None:
    primary, replica = pair
    old = await add(primary, "e1")
    await primary.client.wait(1, 2000)
    # From here on nothing reaches the replica: seven calls were promised that it never hears of.
    await replica.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    for n in range(7):
        await place(primary, f"c{n}")
    await promote(primary, replica, lose_last=True)

    verdict = await replica.route("new", "east", "100", "1")
    assert isinstance(verdict, Rejected)
    assert verdict.blind
    assert "took over" in verdict.reason
    with pytest.raises(StaleEpoch):
        await replica.beat(old, Beat(True))
        await again(replica)
        await replica.beat(old, Beat(True))
    await again(replica)
    seen = await view(replica, "e1")
    assert (seen.state, seen.reason) == (NodeState.JOINING, "settling")

    async def taken() -> bool:
        await replica.beat((await replica.claim(OWNER, 60_000, ["e1"]))[0], Beat(True))
        return isinstance(await replica.route("new", "east", "100", "1"), Placed)

    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while not await taken():
        assert loop.time() - began_s < RESERVED_S + 2
        await asyncio.sleep(0.05)
    assert loop.time() - began_s > RESERVED_S / 2
    assert (await view(replica, "e1")).calls == 1


async def test_a_server_that_was_primary_before_goes_by_the_other_ones_data(
    pair: tuple[Fleet, Fleet],
) -> None:
    """What it remembers of its own time is not used: another call has been placed since."""
    first, second = pair
    await add(first, "e1", calls_max=1)
    assert isinstance(await first.route("a", "east", "100", "1", dry=True), Placed)
    await promote(first, second)
    lease = (await second.claim(OWNER, 60_000, ["e1"]))[0]
    await second.beat(lease, Beat(True))
    await second.reconcile(lease, [CallTruth("p1")])
    host, port = "127.0.0.1", str((await second.client.config_get("port"))["port"])
    await first.client.execute_command("REPLICAOF", host, port)
    while not await second.client.wait(1, 100):
        await asyncio.sleep(0.05)
    await promote(second, first)

    early = await first.route("b", "east", "100", "1")
    assert isinstance(early, Rejected)
    assert "took over" in early.reason
    await asyncio.sleep(RESERVED_S + 0.1)
    lease = (await first.claim(OWNER, 60_000, ["e1"]))[0]
    await first.beat(lease, Beat(True))
    await first.reconcile(lease, [CallTruth("p1")])
    late = await first.route("b", "east", "100", "1")
    assert isinstance(late, Rejected)
    assert "full" in late.reason


async def test_a_new_version_of_the_functions_does_not_settle(pair: tuple[Fleet, Fleet]) -> None:
    primary, _ = pair
    lease = await add(primary, "e1")
    await primary.load()
    await place(primary, "c1")
    assert (await primary.claim(OWNER, 60_000, ["e1"]))[0] == lease


async def test_settling_goes_on_through_a_new_version(pair: tuple[Fleet, Fleet]) -> None:
    primary, replica = pair
    await add(primary, "e1")
    await promote(primary, replica)
    await replica.lead("steward", "s", 60_000)
    await replica.load()
    verdict = await replica.route("new", "east", "100", "1")
    assert isinstance(verdict, Rejected)
    assert "took over" in verdict.reason


async def test_the_leader_of_before_gets_a_new_epoch(pair: tuple[Fleet, Fleet]) -> None:
    primary, replica = pair
    before = await primary.lead("steward", "s", 60_000)
    await promote(primary, replica)
    after = await replica.lead("steward", "s", 60_000)
    assert before and after
    assert int(after) > int(before)


async def test_the_leader_has_redis_run_its_functions(pair: tuple[Fleet, Fleet]) -> None:
    primary, _ = pair
    assert not await primary.load_if_other()
    other = library().decode() + "redis.register_function('of_another', function() end)\n"
    await primary.client.function_load(other, replace=True)
    assert await primary.load_if_other()
    assert not await primary.load_if_other()
    assert b"of_another" not in str(await primary.client.function_list()).encode()
