"""Nodes that exist in Redis alone, told of by the words that real drivers use.

What is simulated: the PBX and its link. What is real: every function of lua/redis/ that a driver
calls (register, reconcile, beat, events), under a lease of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import redis.asyncio as redis

from controller.config import PlacementConfig
from controller.fleet.functions import Fleet
from controller.fleet.keys import prefix
from controller.fleet.state import Beat, CallRecord, Lease
from controller.model import CallAnswered, CallEnded, CallStarted, NodeEvent

LEASE_MS = 3_600_000
BATCH = 500
SCANNED = 5000

_record = msgspec.msgpack.Decoder(CallRecord)


def placement_policy(regions: Sequence[str], *, ramp_s: float = 0) -> dict[str, Any]:
    """As routing/policy.py makes it of a config with the defaults, except the ramp."""
    p = PlacementConfig()
    return {
        "spill_above": p.spill_above,
        "reservation_ms": round(p.reservation_s * 1000),
        "silent_ms": round(p.silent_after_s * 1000),
        "ramp_ms": round(ramp_s * 1000),
        "admit": {"low": p.admit_low, "normal": p.admit_normal, "high": 1},
        "reject_cause": p.reject_cause,
        "retry_after_s": p.retry_after_s,
        "regions": {region: [] for region in regions},
        "numbers": {},
    }


class SimulatedNodes:
    """nodes: name to SIP address. region: of all of them."""

    def __init__(
        self, client: redis.Redis, fleet: str, nodes: Mapping[str, str], *, calls_max: int
    ) -> None:
        self.region = "east"
        self.client = client
        self.fleet = Fleet(client, fleet)
        self.prefix = prefix(fleet)
        self._addresses = dict(nodes)
        self._calls_max = calls_max
        self._leases: list[Lease] = []
        self._known: set[bytes] = set()

    async def join(self) -> list[Lease]:
        """Registers every node, in step and without a call, and returns their leases. Their hold,
        which lets reservations of before a loss of data land, is lifted: there were none."""
        await self.fleet.set_policy(placement_policy([self.region]))
        self._leases = await self.fleet.claim("bench", LEASE_MS, self._addresses)
        for lease in self._leases:
            facts = {
                "region": self.region,
                "address": self._addresses[lease.node],
                "kind": "asterisk",
                "weight": 1,
                "calls_max": self._calls_max,
                "owner": "bench",
            }
            await self.fleet.register(lease, facts)
            await self.client.hset(f"{self.prefix}:node:{lease.node}", "hold", "0")
            await self.fleet.beat(lease, Beat(link=True, channels=0, cpu=0.2))
            await self.fleet.reconcile(lease, [])
        return self._leases

    async def occupy(self, calls: int) -> None:
        """`calls` live calls, evenly spread, which the fleet did not place."""
        for number, lease in enumerate(self._leases):
            mine = range(number, calls, len(self._leases))
            for at in range(0, len(mine), BATCH):
                started = [CallStarted(f"up-{n}", "", "100", "9196") for n in mine[at : at + BATCH]]
                await self.fleet.events(lease, started)

    async def beat(self) -> None:
        """One beat a node: a sign of life this very moment."""
        for lease in self._leases:
            await self.fleet.beat(lease, Beat(link=True, sip=True, channels=0, cpu=0.2))

    async def placed_since(self) -> dict[str, list[str]]:
        """Placements since it was last asked, by node. Reads the key of every call's record."""
        new = []
        async for key in self.client.scan_iter(match=f"{self.prefix}:call:*", count=SCANNED):
            if key not in self._known:
                self._known.add(key)
                new.append(key)
        shown: dict[str, list[str]] = {}
        for at in range(0, len(new), BATCH):
            for raw in await self.client.mget(new[at : at + BATCH]):
                record = _record.decode(cast(bytes, raw))
                if record.state == "reserved":
                    shown.setdefault(record.node, []).append(record.placement)
        return shown

    async def confirm(self, shown: Mapping[str, Sequence[str]]) -> None:
        """The calls show on their nodes, placements by node, and are answered."""
        for lease in self._leases:
            placements = shown.get(lease.node, ())
            for at in range(0, len(placements), BATCH):
                events: list[NodeEvent] = []
                for placement in placements[at : at + BATCH]:
                    pbx_id = f"on-{placement}"
                    events += [CallStarted(pbx_id, placement, "100", "9196"), CallAnswered(pbx_id)]
                await self.fleet.events(lease, events)

    async def end(self, shown: Mapping[str, Sequence[str]]) -> None:
        """The calls that `confirm` was told of hang up, and their records go."""
        for lease in self._leases:
            placements = shown.get(lease.node, ())
            for at in range(0, len(placements), BATCH):
                ended = placements[at : at + BATCH]
                await self.fleet.events(lease, [CallEnded(f"on-{p}", 16) for p in ended])
                # Kept for a quarter of an hour else; placed_since reads every key.
                keys = [f"{self.prefix}:call:{p.split('-')[0]}" for p in ended]
                await self.client.unlink(*keys)

    async def placed(self) -> int:
        """Calls placed so far."""
        return sum(n for key, n in (await self.fleet.stats()).items() if key.startswith("place:"))
