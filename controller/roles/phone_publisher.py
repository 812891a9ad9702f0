"""The gates' part in phones: from SQL to Redis, and the last of removed ones.

One gate at a time does it, by lease. Not the steward: so only gates and vaults reach the database.
"""

from __future__ import annotations

import asyncio
import logging

from controller.config import Config
from controller.errors import FleetUnreachable, RecordsUnreachable, StaleEpoch
from controller.fleet.functions import Fleet
from controller.fleet.keys import new_owner
from controller.fleet.phones import FleetPhones, PublishedPhone
from controller.media.phones import waiting
from controller.records.database import open_database
from controller.records.phones import Phone, PhoneBook

ROUND_S = 0.5
LEAD_MS = 2000

_log = logging.getLogger(__name__)


class PhonePublisher:
    """Brings Redis in step with SQL. Opens the records when first needed."""

    def __init__(self, config: Config, fleet: Fleet) -> None:
        self._config = config
        self._fleet = fleet
        self._phones = FleetPhones(fleet)
        self._book: PhoneBook | None = None
        self._problem = ""

    async def run(self) -> None:
        """Until cancelled. Trouble with Redis or SQL is told once; phones and calls go on."""
        owner = new_owner()
        while True:
            problem = ""
            try:
                if epoch := await self._fleet.lead("phones", owner, LEAD_MS):
                    await self._step(epoch)
            except (FleetUnreachable, RecordsUnreachable, StaleEpoch) as error:
                problem = error.message
            if problem and problem != self._problem:
                _log.warning("phones are not published: %s", problem)
            self._problem = problem
            await asyncio.sleep(ROUND_S)

    async def _step(self, epoch: str) -> None:
        book = self._book
        if book is None:
            book = self._book = PhoneBook(await asyncio.to_thread(open_database, self._config))
        wanted = await asyncio.to_thread(book.versions)
        there = await self._phones.published()
        for region in wanted:
            if wanted[region] != there.get(region) and region in self._config.regions:
                version, phones = await asyncio.to_thread(book.of_region, region)
                await self._phones.publish(epoch, region, version, map(_published, phones))
                _log.info("phones of %s: %d published, version %d", region, len(phones), version)
        removed = await asyncio.to_thread(book.removed)
        if removed:
            told = await self._phones.acknowledged()
            gone = [phone for phone in removed if not waiting(self._config, phone, told)]
            await asyncio.to_thread(book.forget, gone)


def _published(phone: Phone) -> PublishedPhone:
    return PublishedPhone(
        phone.name, phone.display, phone.policy, phone.digests.md5, phone.digests.sha256
    )
