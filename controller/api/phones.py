"""Phones: made, listed with where each is, given new credentials, removed.

A password is made here, answered once, and kept nowhere: SQL gets its digests.
"""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
from aiohttp import web

from controller.api import journal, reply
from controller.api.route import region_of
from controller.api.shapes import (
    Ask,
    PendingNode,
    PhoneAddAsk,
    PhoneCredentials,
    PhonePlace,
    Phones,
    PhoneView,
    PhoneZone,
)
from controller.config import Config
from controller.fleet.functions import Fleet
from controller.fleet.phones import FleetPhones, NodePhones, Registration
from controller.media import phones as rules
from controller.media import provision
from controller.records.database import Database, open_database
from controller.records.phones import Digests, Phone, PhoneBook


def routes(config: Config, fleet: Fleet) -> list[web.RouteDef]:
    noun = _Phones(config, fleet)
    return [
        web.get("/v1/phones", noun.list, name="phones"),
        web.post("/v1/phones", noun.add, name="phone.add"),
        web.get("/v1/phone-dns", partial(_dns, config), name="phone.dns"),
        web.get("/v1/phones/{name}", noun.show, name="phone"),
        web.post("/v1/phones/{name}/rotate", noun.rotate, name="phone.rotate"),
        web.post("/v1/phones/{name}/remove", noun.remove, name="phone.remove"),
    ]


class _Phones:
    """The handlers, on records that are opened at the first request that needs them."""

    def __init__(self, config: Config, fleet: Fleet) -> None:
        self._config = config
        self._fleet = fleet
        self._phones = FleetPhones(fleet)
        self._opening = asyncio.Lock()
        self._database: Database | None = None

    async def _book(self) -> PhoneBook:
        async with self._opening:
            if self._database is None:
                self._database = await asyncio.to_thread(open_database, self._config)
        return PhoneBook(self._database)

    async def list(self, _: web.Request) -> web.Response:
        book = await self._book()
        kept = await asyncio.to_thread(book.all)
        told = await self._phones.acknowledged()
        places = await self._phones.registrations()
        shown = [_view(self._config, p, told, places.get(p.name, [])) for p in kept]
        return reply.json(Phones(shown, (await self._fleet.presence()).now_ms))

    async def show(self, request: web.Request) -> web.Response:
        book = await self._book()
        phone = await asyncio.to_thread(book.get, request.match_info["name"])
        return reply.json(await self._seen(phone))

    async def add(self, request: web.Request) -> web.Response:
        ask = await reply.body(request, PhoneAddAsk)
        name = rules.checked_name(self._config, ask.name)
        display = rules.checked_display(ask.display)
        region = region_of(self._config, ask.region)
        journal.note(
            request, phone=name, region=region, policy=ask.policy.value, dry_run=ask.dry_run
        )
        provision.signalling(self._config)  # before anything is made that nobody could be told
        book = await self._book()
        if ask.dry_run:
            nothing = Phone(name, display, region, ask.policy, Digests("", ""), 0, 0, 0)
            return self._credentials(_view(self._config, nothing, {}, []), "")
        password = rules.new_password()
        made = rules.digests(name, self._config.realm, password)
        phone = await asyncio.to_thread(book.add, name, display, region, ask.policy, made)
        return self._credentials(_view(self._config, phone, {}, []), password)

    async def rotate(self, request: web.Request) -> web.Response:
        ask = await reply.body(request, Ask)
        book = await self._book()
        before = await asyncio.to_thread(book.get, request.match_info["name"])
        journal.note(request, phone=before.name, dry_run=ask.dry_run)
        provision.signalling(self._config)
        if ask.dry_run:
            return self._credentials(await self._seen(before), "")
        password = rules.new_password()
        made = rules.digests(before.name, self._config.realm, password)
        phone = await asyncio.to_thread(book.rotate, before.name, made)
        # Committed: the password is answered whatever Redis says now, for nobody can ask again.
        return self._credentials(_view(self._config, phone, {}, []), password)

    async def remove(self, request: web.Request) -> web.Response:
        ask = await reply.body(request, Ask)
        book = await self._book()
        phone = await asyncio.to_thread(book.get, request.match_info["name"])
        journal.note(request, phone=phone.name, dry_run=ask.dry_run)
        seen = await self._seen(phone)
        if not ask.dry_run:
            phone = await asyncio.to_thread(book.remove, phone.name)
            # that it is being removed; where it was is still true for as long as a node has it
            removed = _view(self._config, phone, {}, [])
            seen = msgspec.structs.replace(removed, at=seen.at)
        return reply.json(seen)

    async def _seen(self, phone: Phone) -> PhoneView:
        told = await self._phones.acknowledged()
        places = await self._phones.registrations(phone.name)
        return _view(self._config, phone, told, places.get(phone.name, []))

    def _credentials(self, view: PhoneView, password: str) -> web.Response:
        config = self._config
        if not password:
            return reply.json(PhoneCredentials(view, True, config.realm))
        phone = provision.Credentials(
            view.name, view.display, view.region, view.policy, config.realm, password
        )
        how = provision.signalling(config)
        return reply.json(
            PhoneCredentials(
                view,
                False,
                config.realm,
                password,
                provision.uri(config, phone, how),
                provision.files(config, phone, how),
            )
        )


def _view(
    config: Config,
    phone: Phone,
    told: dict[str, NodePhones],
    places: list[tuple[str, Registration]],
) -> PhoneView:
    pending = [
        PendingNode(node, told[node].problem if node in told else "")
        for node in rules.waiting(config, phone, told)
    ]
    state = "removing" if phone.removed_ms else "pending" if pending else "ready"
    return PhoneView(
        phone.name, phone.display, phone.region, phone.policy, state, pending,
        [
            PhonePlace(node, r.contact, r.transport, r.user_agent, r.since_ms, round(r.ends_ms))
            for node, r in places
        ],
        phone.created_ms, phone.rotated_ms,
    )  # fmt: skip


async def _dns(config: Config, request: web.Request) -> web.Response:
    region = region_of(config, request.query.get("region", ""))
    return reply.json(PhoneZone(provision.dns_zone(config, region, provision.signalling(config))))
