"""A node's registrations on their way into the fleet's picture.

Events go in as they come; the node's own list mends what they leave out (expiry, user agent) or
lost. It is taken at each new link, soon after a phone came, and now and then: with 10,000 phones
it is a list of 10,000 rows, so not as often as that of calls.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Iterable, Sequence

from controller.errors import CommandRefused, DeadlineExceeded, FleetUnreachable, StaleEpoch
from controller.fleet.functions import Fleet
from controller.fleet.phones import FleetPhones
from controller.fleet.state import Lease
from controller.model import NodeEvent, PhoneGone, PhoneRegistered
from controller.pbx.base import Driver
from controller.tasks import is_set

COMPARE_S = 30.0
#: FreeSWITCH writes its list behind a queue: what an event told so shortly before outweighs it
GRACE_S = 2.0
#: phones that come together are looked up together
SETTLE_S = 0.5

_log = logging.getLogger(__name__)


class Registrations:
    """Of one node. Writes under the lease that it is given, and keeps quiet without one.

    One task writes, `watch`; so the pump of events never waits for a list of phones.
    """

    def __init__(self, fleet: Fleet, node: str) -> None:
        self._phones = FleetPhones(fleet)
        self._node = node
        self._lease: Lease | None = None
        self._told: list[PhoneRegistered | PhoneGone] = []
        self._recent: dict[str, tuple[float, PhoneRegistered | PhoneGone]] = {}
        self._wake = asyncio.Event()
        self._compare_at_s = 0.0
        self._problem = ""

    def renew(self, lease: Lease | None) -> None:
        """The lease as the worker holds it now; a new one means that Redis may know nothing."""
        if lease is not None and lease != self._lease:
            self._compare_soon()
        self._lease = lease

    def take(self, batch: Sequence[NodeEvent]) -> None:
        """The phones among a batch of events."""
        events = [e for e in batch if isinstance(e, PhoneRegistered | PhoneGone)]
        if events:
            self._told += events
            self._recent.update((event.name, (_now_s(), event)) for event in events)
            self._wake.set()

    async def watch(self, driver: Driver) -> None:
        """Writes and compares until cancelled or the link is lost."""
        self._told.clear()
        self._compare_soon()
        while True:
            await is_set(self._wake, max(0, self._compare_at_s - _now_s()))
            self._wake.clear()
            if self._lease is None:
                await asyncio.sleep(SETTLE_S)
                continue
            try:
                await self._write(self._lease)
                if _now_s() >= self._compare_at_s:
                    await self._compare(driver, self._lease)
            except (FleetUnreachable, StaleEpoch, DeadlineExceeded) as error:
                _log.debug("node %s: its phones were not compared: %s", self._node, error)
                self._told.clear()
                self._compare_soon()
            except CommandRefused as error:  # of a PBX that has no phones, or may not list them
                if error.message != self._problem:
                    _log.warning("node %s: %s", self._node, error.message)
                self._problem = error.message

    def _compare_soon(self) -> None:
        self._compare_at_s = min(self._compare_at_s or math.inf, _now_s() + SETTLE_S)
        self._wake.set()

    async def _write(self, lease: Lease) -> None:
        events, self._told = self._told, []
        if not events:
            return
        await self._phones.told(lease, events)
        if any(isinstance(e, PhoneRegistered) and not e.expires_s for e in events):
            self._compare_soon()

    async def _compare(self, driver: Driver, lease: Lease) -> None:
        self._compare_at_s = _now_s() + COMPARE_S * random.uniform(0.8, 1.0)  # noqa: S311
        since_s = _now_s() - GRACE_S
        listed = await driver.phones()
        self._recent = {n: told for n, told in self._recent.items() if told[0] >= since_s}
        recent = [event for _, event in self._recent.values()]
        removed = await self._phones.reconcile(lease, mended(listed, recent))
        if removed:
            _log.info("node %s: %d phones were gone", self._node, removed)


def mended(
    listed: Sequence[PhoneRegistered], recent: Iterable[PhoneRegistered | PhoneGone]
) -> list[PhoneRegistered]:
    """A node's list with what events told while or shortly before it was taken: they are newer."""
    phones = {phone.name: phone for phone in listed}
    for event in recent:
        there = phones.get(event.name)
        if isinstance(event, PhoneRegistered):
            if there is None or there.contact != event.contact:
                phones[event.name] = event
        elif there is not None and there.contact == event.contact:
            del phones[event.name]
    return list(phones.values())


def _now_s() -> float:
    return time.monotonic()
