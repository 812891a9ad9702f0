"""Recordings for people: listed, shown, heard, verified, held, erased.

Each request needs a right of its asker's certificate, and is in the log of reads before its first
byte goes out: when the log cannot be written, nothing is read. Refused ones are logged too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
from aiohttp import web

from controller.access.roles import Right
from controller.api import journal, reply
from controller.api.journal import masked
from controller.api.recording_shapes import (
    EraseAsk,
    ErasureView,
    HoldAsk,
    KeptReport,
    Peaks,
    PersonAsk,
    Reads,
    RecordingAction,
    RecordingDetail,
    Recordings,
    RecordingView,
    Verified,
)
from controller.api.who import address_of, caller_of, require, rights, roles_of
from controller.errors import CommandRefused, PbxctlError, UsageError
from controller.records.reads import ReadingLog
from controller.records.recording_rows import RecordingRow, RecordingState, Wanted
from controller.records.recordings import RecordingIndex
from controller.vault import erasure, fields
from controller.vault.custody import Custody
from controller.vault.keeper import Keeper
from controller.vault.metrics import READS
from controller.vault.reading import Audio, Reading

LIST_MAX = 1000
COLUMNS_MAX = 1000
REASON_MAX_CHARS = 500
_FILTERS = (
    "call", "number", "node", "tenant", "rule", "from_ms", "until_ms", "state", "held", "before",
    "limit",
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Desk:
    """What the handlers work with."""

    index: RecordingIndex
    reading: Reading
    keeper: Keeper
    custody: Custody
    log: ReadingLog


def routes(desk: Desk) -> list[web.RouteDef]:
    noun = _Recordings(desk)
    one = "/v1/recordings/{recording}"
    return [
        web.get("/v1/recordings", noun.list, name="recordings"),
        web.get(one, noun.show, name="recording"),
        web.get(f"{one}/audio", noun.audio, name="recording.audio"),
        web.get(f"{one}/peaks", noun.peaks, name="recording.peaks"),
        web.post(f"{one}/verify", noun.verify, name="recording.verify"),
        web.post(f"{one}/hold", noun.hold, name="recording.hold"),
        web.post(f"{one}/erase", noun.erase, name="recording.erase"),
        web.post("/v1/person", noun.person, name="person"),
        web.get("/v1/kept", noun.kept, name="kept"),
        web.get("/v1/reads", noun.reads, name="reads"),
    ]


class _Recordings:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def _begin(
        self, request: web.Request, right: Right, action: str, recording: str = "", **detail: object
    ) -> None:
        """Checks the right and writes the log, refusals as well."""
        said = msgspec.json.encode(detail).decode() if detail else ""
        who, roles, address = caller_of(request), ",".join(roles_of(request)), address_of(request)
        try:
            require(request, right)
        except CommandRefused:
            READS.labels(action, "refused").inc()
            words = f"{action} refused"
            with contextlib.suppress(PbxctlError):  # refused is refused, logged or not
                await asyncio.to_thread(
                    self._desk.log.write, who, roles, address, words, recording, said
                )
            raise
        try:
            await asyncio.to_thread(
                self._desk.log.write, who, roles, address, action, recording, said
            )
        except PbxctlError:
            READS.labels(action, "not logged").inc()
            raise
        READS.labels(action, "allowed").inc()

    async def list(self, request: web.Request) -> web.Response:
        query = request.query
        number = query.get("number", "")
        # The first of each, as it counts below: what is said twice would be logged as the last.
        shown = {key: query[key] for key in _FILTERS if key in query}
        if number:
            shown["number"] = masked(number)
        await self._begin(request, Right.LIST, "list", **shown)
        limit = min(LIST_MAX, _number(request, "limit", 100))
        wanted = Wanted(
            call=query.get("call", ""),
            node=query.get("node", ""),
            tenant=query.get("tenant", ""),
            rule=query.get("rule", ""),
            tags=await asyncio.to_thread(self._tags, number) if number else (),
            from_ms=_number(request, "from_ms", 0),
            until_ms=_number(request, "until_ms", 0),
            states=_states(query.get("state", "")),
            held="held" in query,
            before=_cursor(query.get("before", "")),
        )
        return reply.json(await asyncio.to_thread(self._list, wanted, limit, masked))

    def _tags(self, number: str) -> tuple[bytes, ...]:
        key = self._desk.custody.tags_key()
        tenants = {kek.tenant for kek in self._desk.custody.keyring.keks().values()}
        return tuple(fields.tag(key, tenant, number) for tenant in sorted(tenants)) or (b"",)

    def _list(self, wanted: Wanted, limit: int, shown: Callable[[str], str]) -> Recordings:
        rows = self._desk.index.find(wanted, limit)
        following = f"{rows[-1].started_ms}.{rows[-1].recording}" if len(rows) == limit else ""
        return Recordings([self._view(row, shown) for row in rows], following)

    def _view(self, row: RecordingRow, shown: Callable[[str], str]) -> RecordingView:
        caller, callee = self._desk.reading.numbers(row)
        return RecordingView(
            recording=row.recording,
            state=row.state.value,
            tenant=row.tenant,
            node=row.node,
            call=row.call,
            caller=shown(caller),
            callee=shown(callee),
            rule=row.rule,
            started_ms=row.started_ms,
            length_ms=row.length_ms,
            call_ms=row.call_ms,
            reason=row.reason,
            keep_until_ms=row.keep_until_ms,
            holds=row.holds,
            lost=row.lost_ms > 0,
            suite=row.suite,
            rate_hz=row.rate_hz,
            channels=row.channels,
            sealed_bytes=row.sealed_bytes,
        )

    async def show(self, request: web.Request) -> web.Response:
        recording = request.match_info["recording"]
        await self._begin(request, Right.LIST, "show", recording)
        shown = str if Right.REVEAL in rights(request) else masked
        return reply.json(await asyncio.to_thread(self._show, recording, shown))

    def _show(self, recording: str, shown: Callable[[str], str]) -> RecordingDetail:
        row = self._desk.index.get(recording)
        signed = self._desk.index.erasure(recording)
        record = None
        if signed is not None:
            public = erasure.public_key(self._desk.custody.signing_key())
            record = ErasureView(
                signed.at_ms, signed.statement.decode(), signed.signature.hex(), public.hex()
            )
        return RecordingDetail(self._view(row, shown), self._desk.index.holds(recording), record)

    async def audio(self, request: web.Request) -> web.StreamResponse:
        """WAV of the piece from_ms to to_ms. A damaged chunk ends the connection before its end."""
        recording = request.match_info["recording"]
        from_ms, to_ms = _piece(request)
        await self._begin(request, Right.LISTEN, "listen", recording, from_ms=from_ms, to_ms=to_ms)
        audio = await self._open(recording, from_ms, to_ms)
        response = web.StreamResponse(headers={"Content-Type": "audio/wav"})
        response.content_length = audio.wav_bytes
        await response.prepare(request)
        await response.write(audio.wav_header())
        parts = audio.parts()
        try:
            while part := await asyncio.to_thread(_next, parts):
                await response.write(part)
        except PbxctlError as error:
            # The status went out long ago: a length that is not reached is what tells the client.
            log.error("recording %s: %s", recording, error.message)
            if request.transport:
                request.transport.abort()
        return response

    async def _open(self, recording: str, from_ms: int, to_ms: int | None) -> Audio:
        row = await asyncio.to_thread(self._desk.index.get, recording)
        return await asyncio.to_thread(self._desk.reading.audio, row, from_ms, to_ms)

    async def peaks(self, request: web.Request) -> web.Response:
        recording = request.match_info["recording"]
        from_ms, to_ms = _piece(request)
        await self._begin(request, Right.LISTEN, "peaks", recording, from_ms=from_ms, to_ms=to_ms)
        audio = await self._open(recording, from_ms, to_ms)
        columns = max(1, min(COLUMNS_MAX, _number(request, "columns", 80)))
        found = await asyncio.to_thread(audio.peaks, columns)
        length_ms = audio.frames * 1000 // audio.row.rate_hz
        return reply.json(Peaks(recording, length_ms, [list(column) for column in found]))

    async def verify(self, request: web.Request) -> web.Response:
        recording = request.match_info["recording"]
        await self._begin(request, Right.VERIFY, "verify", recording)
        row = await asyncio.to_thread(self._desk.index.get, recording)
        found = await asyncio.to_thread(self._desk.reading.verify, row)
        intact = not found.bad and not found.words
        journal.note(request, recording=recording, intact=intact)
        return reply.json(Verified(recording, intact, found.chunks, list(found.bad), found.words))

    async def hold(self, request: web.Request) -> web.Response:
        recording = request.match_info["recording"]
        ask = await reply.body(request, HoldAsk)
        action = "lift" if ask.lift else "hold"
        await self._begin(request, Right.HOLD, action, recording, reason=ask.reason)
        journal.note(request, recording=recording, action=action, dry_run=ask.dry_run)
        reason = "" if ask.lift else _reason(ask.reason)
        if not ask.dry_run and ask.lift:
            await asyncio.to_thread(self._desk.index.lift, recording, caller_of(request))
        elif not ask.dry_run:
            await asyncio.to_thread(self._desk.index.hold, recording, reason, caller_of(request))
        return await self._acted(recording, action, ask.dry_run)

    async def erase(self, request: web.Request) -> web.Response:
        recording = request.match_info["recording"]
        ask = await reply.body(request, EraseAsk)
        await self._begin(request, Right.ERASE, "erase", recording, reason=ask.reason)
        journal.note(request, recording=recording, dry_run=ask.dry_run)
        reason = f"{caller_of(request)}: {_reason(ask.reason)}"
        if not ask.dry_run:
            await asyncio.to_thread(self._desk.index.doom, recording, reason)
            await asyncio.to_thread(self._desk.keeper.erase, recording)
        return await self._acted(recording, "erase", ask.dry_run)

    async def _acted(self, recording: str, action: str, dry_run: bool) -> web.Response:
        row = await asyncio.to_thread(self._desk.index.get, recording)
        return reply.json(RecordingAction(recording, action, row.state.value, row.holds, dry_run))

    async def person(self, request: web.Request) -> web.Response:
        """All that concerns one number, as caller or callee; the numbers in clear."""
        ask = await reply.body(request, PersonAsk)
        if not any(c.isalnum() for c in ask.number):
            raise UsageError(f"{ask.number[:64]!r} is no number")
        await self._begin(request, Right.REVEAL, "person", number=masked(ask.number))
        journal.note(request, number=masked(ask.number))
        tags = await asyncio.to_thread(self._tags, ask.number)
        wanted = Wanted(tags=tags, before=_cursor(ask.before))
        return reply.json(await asyncio.to_thread(self._list, wanted, LIST_MAX, str))

    async def kept(self, request: web.Request) -> web.Response:
        await self._begin(request, Right.LIST, "kept")
        now_ms = round(time.time() * 1000)
        return reply.json(
            KeptReport(await asyncio.to_thread(self._desk.index.kept, now_ms), now_ms)
        )

    async def reads(self, request: web.Request) -> web.Response:
        recording, who = request.query.get("recording", ""), request.query.get("who", "")
        await self._begin(request, Right.LOG, "log", recording, who=who)
        limit = min(LIST_MAX, _number(request, "limit", 100))
        found = await asyncio.to_thread(
            lambda: self._desk.log.find(recording=recording, who=who, limit=limit)
        )
        return reply.json(Reads(found))


def _next(parts: Iterator[bytes]) -> bytes:
    return next(parts, b"")


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or len(text) > 15:
        raise UsageError(f"{name} is no number: {text[:40]!r}")
    return int(text)


def _piece(request: web.Request) -> tuple[int, int | None]:
    from_ms = _number(request, "from_ms", 0)
    to_ms = _number(request, "to_ms", -1)
    if -1 < to_ms <= from_ms:
        raise UsageError(f"a piece from {from_ms} ms to {to_ms} ms has no audio")
    return from_ms, None if to_ms < 0 else to_ms


def _states(text: str) -> tuple[RecordingState, ...]:
    known = {state.value for state in RecordingState}
    if unknown := [word for word in text.split(",") if word and word not in known]:
        raise UsageError(f"no state: {unknown[0][:40]!r}", hint=f"known: {', '.join(known)}")
    return tuple(RecordingState(word) for word in text.split(",") if word)


def _cursor(text: str) -> tuple[int, str] | None:
    if not text:
        return None
    started_ms, _, recording = text.partition(".")
    if not started_ms.isdecimal() or len(started_ms) > 15:
        raise UsageError(f"before is no answer's `next`: {text[:64]!r}")
    return int(started_ms), recording


def _reason(text: str) -> str:
    """It goes into records for good: it must be there, and short."""
    if not text.strip() or len(text) > REASON_MAX_CHARS:
        raise UsageError(
            f"a reason of 1 to {REASON_MAX_CHARS} characters is needed", hint="--reason TEXT"
        )
    return text.strip()
