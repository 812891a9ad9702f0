"""The driver: claims its share of the nodes by lease and runs one worker for each.

Several drivers share a fleet. One that dies loses its leases after LEASE_MS; the others claim
them within CLAIM_S more, and compare every call before a node is placed on again.

One that stops in order, or has more than its share, hands over: it gives the lease back and tells
what its nodes do until another has taken them. They are placed on throughout, for the taker
compares before the last word is too old.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from controller import metrics, notify
from controller.config import Config
from controller.errors import FleetUnreachable, StaleEpoch
from controller.fleet.functions import Fleet, connect
from controller.fleet.keys import new_owner
from controller.fleet.phones import FleetPhones
from controller.fleet.state import Lease
from controller.media.policy import Demands, judge
from controller.model import Kind, Ruling, Security
from controller.pbx.drivers import Drivers
from controller.pbx.hub import GreenHub
from controller.pbx.options import OptionsProbe, probe_of
from controller.pbx.worker import Worker
from controller.pbx.worker_metrics import LEASES, REGISTRY, from_zero
from controller.routing.policy import policy
from controller.tasks import is_set

CLAIM_S = 0.4
LEASE_MS = 1500
#: others claim every CLAIM_S; a node that none took by then has no taker
HANDOVER_S = 3.0
TAKEN_POLL_S = 0.05

log = logging.getLogger(__name__)


async def run(config: Config, stop: asyncio.Event) -> None:
    """Drives nodes until `stop` is set; then gives the leases back, and leaves calls alone."""
    hub = GreenHub()
    probe, drivers = probe_of(config), Drivers(config, hub)
    fleet = Fleet(connect(config, "driver"), config.fleet)
    crew = _Crew(config, fleet, probe, drivers)
    await probe.open()
    server = await metrics.serve_role(config, "driver", REGISTRY)
    if any(node.kind is Kind.FREESWITCH for node in config.nodes.values()):
        hub.start()
    try:
        await crew.claim()
        notify.ready()
        while not await is_set(stop, CLAIM_S):
            await crew.claim()
    finally:
        await crew.end()
        probe.close()
        hub.stop()
        await server.close()
        await fleet.close()


class _Crew:
    def __init__(self, config: Config, fleet: Fleet, probe: OptionsProbe, drivers: Drivers) -> None:
        self._config = config
        self._fleet = fleet
        self._probe = probe
        self._drivers = drivers
        self._owner = new_owner()
        self._policy = policy(config)
        self._phones = FleetPhones(fleet)
        self._phone_versions: dict[str, int] = {}
        self._demands = Demands.of(config)
        self._workers: dict[str, tuple[Worker, asyncio.Task[None]]] = {}
        self._yielding: dict[str, float] = {}  # node -> loop time at which its worker goes
        self._away = False

    async def claim(self) -> None:
        """Renews the leases, takes free ones, and brings the workers in step with them."""
        try:
            leases = await self._fleet.claim(self._owner, LEASE_MS, self._config.nodes)
            # Each round, not once: Redis may have come back empty since the last one.
            await self._fleet.set_policy(self._policy, replace=False)
            await self._read_phones()
        except FleetUnreachable as error:
            # The links and what they tell are kept: the next lease finds them warm.
            if not self._away:
                log.warning("%s; %d nodes stay linked", error.message, len(self._workers))
            self._away = True
            return
        if self._away:
            log.warning("Redis answers again")
            self._away = False
        held = {lease.node: lease for lease in leases}
        await self._yield(set(self._workers) - set(held))
        for lease in leases:
            self._employ(lease)
        LEASES.set(len(held))

    async def _read_phones(self) -> None:
        versions = await self._phones.published()
        if versions != self._phone_versions:
            lenient = await self._phones.lenient(versions)
            self._demands = replace(self._demands, lenient=lenient)
            self._phone_versions = versions

    def _judge(self, legs: Sequence[Security] | None, waited_s: float) -> Ruling:
        return judge(self._demands, legs, waited_s)

    def _employ(self, lease: Lease) -> None:
        known = self._workers.get(lease.node)
        if known and not known[1].done():
            known[0].renew(lease)
            return
        if known and (error := known[1].exception()):
            log.error("node %s: its worker failed", lease.node, exc_info=error)
        node = self._config.nodes[lease.node]
        from_zero(lease.node)
        worker = Worker(
            self._fleet,
            lease,
            node,
            self._config.path(node.password_file),
            self._probe,
            self._owner,
            self._drivers.new,
            # With everything off no node is asked anything.
            self._judge if self._demands.strictest != "off" else None,
            self._config.media.sample_share,
            self._config.recordings,
        )
        task = asyncio.create_task(worker.run(), name=f"worker {lease.node}")
        self._workers[lease.node] = (worker, task)

    async def _yield(self, names: set[str]) -> None:
        """Dismisses the workers of nodes that another driver has by now, or that none wants."""
        now_s = asyncio.get_running_loop().time()
        self._yielding = {n: self._yielding.get(n, now_s + HANDOVER_S) for n in names}
        for name, until_s in self._yielding.items():
            if self._workers[name][0].lease is None or now_s > until_s:
                log.info("node %s: its lease went to another driver", name)
                await self._dismiss(name)

    async def _dismiss(self, name: str) -> None:
        _, task = self._workers.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def end(self) -> None:
        try:
            if await self._fleet.release(self._owner, self._config.nodes):
                await self._taken()
        except (FleetUnreachable, StaleEpoch):
            log.debug("Redis is away; the leases end by themselves")
        await asyncio.gather(*(self._dismiss(name) for name in list(self._workers)))

    async def _taken(self) -> None:
        """Waits until other drivers hold all nodes, but not for ever."""
        for _ in range(round(HANDOVER_S / TAKEN_POLL_S)):
            if not any(worker.lease for worker, _ in self._workers.values()):
                return
            await asyncio.sleep(TAKEN_POLL_S)
