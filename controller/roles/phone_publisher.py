"""The leading steward's part in phones: from SQL to Redis, and the last of removed ones."""

from __future__ import annotations

import asyncio
import logging

from controller.config import Config
from controller.errors import RecordsUnreachable
from controller.fleet.functions import Fleet
from controller.fleet.phones import FleetPhones, PublishedPhone
from controller.media.phones import waiting
from controller.records.database import open_database
from controller.records.phones import Phone, PhoneBook

_log = logging.getLogger(__name__)


class PhonePublisher:
    """Each `step` brings Redis in step with SQL. Opens the records when first needed."""

    def __init__(self, config: Config, fleet: Fleet) -> None:
        self._config = config
        self._phones = FleetPhones(fleet)
        self._book: PhoneBook | None = None
        self._problem = ""

    async def step(self, epoch: str) -> None:
        """Raises FleetUnreachable and StaleEpoch; trouble with SQL is logged, calls go on."""
        try:
            await self._step(epoch)
            problem = ""
        except RecordsUnreachable as error:
            problem = error.message
        if problem and problem != self._problem:
            _log.warning("phones are not published: %s", problem)
        self._problem = problem

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
