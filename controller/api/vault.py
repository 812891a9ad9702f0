"""The vault itself, for those who answer for its keys: status, rotation, check."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from controller.access.roles import Right
from controller.api import journal, reply
from controller.api.recording_shapes import (
    PeriodKeys,
    RotateAsk,
    Rotated,
    VaultStatus,
    VaultWork,
)
from controller.api.recordings import Desk
from controller.api.who import require
from controller.vault import checking, erasure
from controller.vault.bodies import Bodies
from controller.vault.custody import now_us
from controller.vault.found import Found
from controller.vault.intake import Intake


def routes(desk: Desk, bodies: Bodies, intake: Intake) -> list[web.RouteDef]:
    noun = _Vault(desk, bodies, intake)
    return [
        web.get("/v1/vault", noun.status, name="vault"),
        web.get("/v1/vault/work", noun.work, name="vault.work"),
        web.post("/v1/vault/rotate", noun.rotate, name="vault.rotate"),
        web.post("/v1/vault/check", noun.check, name="vault.check"),
    ]


class _Vault:
    def __init__(self, desk: Desk, bodies: Bodies, intake: Intake) -> None:
        self._desk = desk
        self._bodies = bodies
        self._intake = intake
        self._checking = asyncio.Lock()
        self._work = VaultWork("", 0, 0)

    async def status(self, request: web.Request) -> web.Response:
        require(request, Right.LIST)
        return reply.json(await asyncio.to_thread(self._status))

    def _status(self) -> VaultStatus:
        custody, index = self._desk.custody, self._desk.index
        counts = index.count(round(time.time() * 1000))
        used = index.keys_by_period()
        keys: dict[tuple[str, str], int] = {}
        for kek in custody.keyring.keks().values():
            of = kek.tenant, kek.period
            keys[of] = keys.get(of, 0) + 1
        return VaultStatus(
            store=self._bodies.store.where,
            free_bytes=self._bodies.store.free_bytes(),
            provider=custody.provider.name,
            pairs=[pair.id for pair in custody.keyring.pairs()],
            periods=[PeriodKeys(*of, count, used.get(of, 0)) for of, count in sorted(keys.items())],
            slots=custody.slots.used,
            rotating=custody.keyring.rotating,
            intake_waiting=len(self._intake.waiting()),
            bad_envelopes=len(self._intake.bad()),
            states=counts.states,
            held=counts.held,
            overdue=counts.overdue,
            lost=counts.lost,
            erasure_key=erasure.public_key(custody.signing_key()).hex(),
        )

    async def work(self, request: web.Request) -> web.Response:
        require(request, Right.LIST)
        return reply.json(self._work)

    async def rotate(self, request: web.Request) -> web.Response:
        ask = await reply.body(request, RotateAsk)
        require(request, Right.KEYS)
        journal.note(request, dry_run=ask.dry_run)
        return reply.json(await asyncio.to_thread(self._rotate, ask))

    def _rotate(self, ask: RotateAsk) -> Rotated:
        custody = self._desk.custody
        if ask.dry_run:
            return Rotated(custody.slots.used, 0, "", True)
        pair = custody.new_pair() if ask.pair else ""
        slots = changed = 0
        try:
            for progress in custody.slots.rotate(now_us()):
                slots, changed = progress.done, progress.changed
                self._work = VaultWork("rotate", slots, progress.slots)
        finally:
            self._work = VaultWork("", 0, 0)
        return Rotated(slots, changed, pair, False)

    async def check(self, request: web.Request) -> web.Response:
        require(request, Right.KEYS)
        async with self._checking:  # it reads everything: never twice at once
            found = await asyncio.to_thread(self._check)
        journal.note(request, checked=found.checked, lost=found.lost_count)
        return reply.json(found)

    def _check(self) -> Found:
        def told(done: int, of: int) -> None:
            self._work = VaultWork("check", done, of)

        try:
            return checking.check(self._bodies, self._desk.custody, self._desk.index, told)
        finally:
            self._work = VaultWork("", 0, 0)
