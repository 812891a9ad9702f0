"""The FreeSWITCH driver: the contract of base.py on one event-socket link.

asyncio calls it; what it does on the link (the methods named `_green_…`) runs in the hub's thread,
where the link and the picture of the calls live. hub.py is the border between the two.

FreeSWITCH's own habits that shape it
    one thread   a link's commands run one after the other in FreeSWITCH: a long list delays pings.
                 `show channels` takes about 10 µs a leg there, far below any silence limit.
    late list    that list is SQLite behind a queue, 100 ms and more late, and its call_uuid column
                 is empty for an unbridged inbound leg. So it only names candidates; each leg that
                 list and map do not agree on is asked for itself, in memory, and the list is read
                 again while we know of fewer legs than FreeSWITCH counts.
    drain        `fsctl pause inbound` answers new INVITEs with 503 and Retry-After: 300 and is
                 forgotten at FreeSWITCH's restart: drain again after a reconnect.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

import gevent
from gevent.event import AsyncResult

from controller.errors import CommandRefused, DeadlineExceeded, LinkLost, PbxctlError
from controller.model import (
    CallTruth,
    EventsLost,
    NodeEvent,
    NodeFacts,
    OriginateRequest,
    PhoneRegistered,
    Security,
)
from controller.pbx import freeswitch_media, freeswitch_phones
from controller.pbx import freeswitch_text as text
from controller.pbx.base import COMMAND_DEADLINE_S, PING_INTERVAL_S, Driver
from controller.pbx.esl import EslLink, Job
from controller.pbx.esl_frames import EslEvent
from controller.pbx.freeswitch_calls import EVENTS, Calls, ListedLeg
from controller.pbx.hub import EventQueue, GreenHub

# How long a leg that claims a placement waits for the dialplan's word before we ask for it.
PLACEMENT_WAIT_S = 0.1
# Long after placement has turned away (2 s): a half-open link never ends by itself.
SILENCE_MAX_S = 6.0
# Between readings of the list; together longer than its lag, shorter than a command's deadline.
_LIST_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 0.0)
_NO_CHANNEL = "-ERR No such channel"


class FreeSwitchDriver(Driver):
    """One link to one FreeSWITCH. hub: started, shared by all drivers of the process.

    tls: made by gevent.ssl, for a node behind stunnel. queue_cap: events kept for a slow reader of
    `watch`.
    """

    recheck_s = 5.0  # sofia::reinvite tells of what the far end changes

    def __init__(
        self,
        hub: GreenHub,
        host: str,
        port: int,
        password: str,
        *,
        tls: ssl.SSLContext | None = None,
        queue_cap: int = 50_000,
    ) -> None:
        self._hub = hub
        self._calls = Calls()
        self._queue_cap = queue_cap
        self._queue: EventQueue | None = None
        self._awaited: dict[str, AsyncResult] = {}
        self._pinger: gevent.Greenlet | None = None
        self._link = EslLink(
            host,
            port,
            password,
            tls=tls,
            on_events=self._green_events,
            on_lost=self._green_lost,
            on_dropped=self._green_dropped,
        )

    @property
    def bad_events(self) -> int:  # type: ignore[override]
        return self._link.bad_events

    async def connect(self) -> NodeFacts:
        self._queue = EventQueue(asyncio.get_running_loop(), self._queue_cap)
        return await self._hub.run(self._green_connect)

    async def watch(self) -> AsyncIterator[Sequence[NodeEvent]]:
        if self._queue is None:
            raise LinkLost("not connected")
        while True:
            yield await self._queue.take()

    def silence_s(self) -> float:
        return time.monotonic() - self._link.last_heard

    async def truth(self) -> Sequence[CallTruth]:
        return await self._hub.run(self._green_truth)

    async def phones(self) -> Sequence[PhoneRegistered]:
        listed = await self._hub.run(self._link.order, "show registrations as json")
        return freeswitch_phones.listed(listed, time.time())

    async def originate(self, request: OriginateRequest) -> str:
        leg = str(uuid.uuid4())
        command = text.originate(request, leg)
        return await self._hub.run(self._green_originate, command, leg)

    async def hangup(self, pbx_id: str, cause: int = 16) -> bool:
        return await self._hub.run(self._green_hangup, pbx_id, int(cause))

    async def drain(self) -> None:
        await self._hub.run(self._green_pause, "pause", "true")

    async def resume(self) -> None:
        await self._hub.run(self._green_pause, "resume", "false")

    async def secure(self, pbx_id: str) -> Sequence[Security]:
        return await self._hub.run(self._green_secure, pbx_id)

    async def start_recording(self, pbx_id: str, path: str, rate_hz: int, on_end: str) -> str:
        variables = text.recording(path, rate_hz, on_end)
        return await self._hub.run(self._green_record, pbx_id, path, variables)

    async def stop_recording(self, leg: str, path: str) -> None:
        with suppress(CommandRefused):
            await self._hub.run(self._green_uuid_record, leg, "stop", text.path(path))

    async def mask_recording(self, leg: str, path: str, on: bool) -> None:
        verb = "mask" if on else "unmask"
        await self._hub.run(self._green_uuid_record, leg, verb, text.path(path))

    async def reload(self, module: str) -> None:
        for command in text.reload(module, await self._hub.run(self._link.api, "sofia status")):
            await self._hub.run(self._link.order, command)

    async def close(self) -> None:
        with suppress(PbxctlError):  # a stopped hub has no link left
            await self._hub.run(self._link.stop)

    def _green_connect(self) -> NodeFacts:
        with gevent.Timeout(COMMAND_DEADLINE_S, False):
            try:
                self._link.connect()
                self._link.send("log 2")  # CRIT: the one place where lost events are told
                self._link.send(f"event json {EVENTS}")
                facts = text.facts(self._link.api("status"))
            except PbxctlError:
                self._link.stop()
                raise
            self._pinger = gevent.spawn(self._green_ping)
            return facts
        self._link.stop()
        raise DeadlineExceeded(f"no login within {COMMAND_DEADLINE_S:g} s")

    def _green_ping(self) -> None:
        """Makes FreeSWITCH talk: with a reply each 0.4 s, silence means trouble."""
        while self._link.connected:
            if self.silence_s() > SILENCE_MAX_S:
                self._link.stop(f"FreeSWITCH was silent for {SILENCE_MAX_S:g} s")
                return
            with suppress(PbxctlError):  # a late answer shows in silence_s; a dead link ends this
                self._link.api("uptime s", PING_INTERVAL_S)
            gevent.sleep(PING_INTERVAL_S)

    def _green_events(self, events: Sequence[EslEvent]) -> None:
        out: list[NodeEvent] = []
        for event in events:
            name = event.get("Event-Name")
            if name == "HEARTBEAT":
                out.append(self._calls.load(event, time.monotonic()))
                continue
            if name == "CUSTOM":
                out += freeswitch_phones.told(event)
            out += self._calls.take(event)
            if name == "CHANNEL_CREATE":
                leg = event.get("Unique-ID")
                if leg in self._awaited:
                    self._awaited[leg].set(None)
                if self._calls.waits(leg):
                    gevent.spawn_later(PLACEMENT_WAIT_S, self._green_placed, leg)
        self._emit(out)

    def _green_placed(self, leg: str) -> None:
        if not self._calls.waits(leg):
            return
        answer = ""
        with suppress(PbxctlError):  # unanswered is unbelieved
            answer = _value(self._link.api(f"uuid_getvar {leg} pbxctl_placement"))
        self._emit(self._calls.placed(leg, answer))

    def _green_lost(self, error: Exception) -> None:
        for awaited in self._awaited.values():
            awaited.set_exception(LinkLost(str(error)))
        if self._pinger is not None:
            self._pinger.kill(block=False)
        if self._queue is not None:
            self._queue.end(error if isinstance(error, LinkLost) else LinkLost(str(error)))

    def _green_dropped(self, count: int) -> None:
        self._emit([EventsLost(count, "FreeSWITCH dropped events of a full queue")])

    def _emit(self, events: Sequence[NodeEvent]) -> None:
        if events and self._queue is not None:
            self._queue.put(events)

    def _green_truth(self) -> Sequence[CallTruth]:
        for pause_s in _LIST_PAUSES_S:
            self._green_correct()
            if len(self._calls.legs()) >= text.sessions(self._link.api("status")):
                break
            gevent.sleep(pause_s)
        return self._calls.truth()

    def _green_correct(self) -> None:
        rows = text.channel_rows(self._link.api("show channels as json"))
        listed = {row.uuid for row in rows}
        known = set(self._calls.legs())
        unknown = [r for r in rows if r.uuid not in known and not self._calls.gone(r.uuid)]
        unknown = [r for r in unknown if text.is_id(r.uuid)]
        missing = [leg for leg in known - listed if text.is_id(leg)]
        asked = [f"uuid_exists {leg}" for leg in missing]
        for row in unknown:
            asked.append(f"uuid_getvar {row.uuid} call_uuid")
            asked.append(f"uuid_getvar {row.uuid} pbxctl_placement")
        answers = self._link.pipeline(asked)
        lost = [leg for leg, alive in zip(missing, answers, strict=False) if alive == "false"]
        told = answers[len(missing) :]
        found = [
            ListedLeg(
                leg=row.uuid,
                call_uuid=_value(call_uuid),
                placement=_value(placement),
                caller=row.cid_num,
                callee=row.dest,
                answered=row.callstate in ("ACTIVE", "HELD", "UNHELD"),
            )
            for row, call_uuid, placement in zip(unknown, told[::2], told[1::2], strict=True)
            if not call_uuid.startswith(_NO_CHANNEL)
        ]
        self._emit(self._calls.correct(found, lost))

    def _green_originate(self, command: str, leg: str) -> str:
        """Accepted means: the channel exists, or the job has ended well."""
        done = self._awaited[leg] = AsyncResult()
        job: Job | None = None
        try:
            job = self._link.bgapi(command)
            waited = gevent.wait([done, job.result], timeout=COMMAND_DEADLINE_S, count=1)
            if not waited:
                raise DeadlineExceeded(f"originate: no channel within {COMMAND_DEADLINE_S:g} s")
            result = waited[0].get()
            if result is not None and not result.startswith("+OK"):
                raise CommandRefused(f"originate: {result.strip()[:120]}")
        finally:
            del self._awaited[leg]
            if job is not None:
                self._link.forget(job)
        return leg

    def _green_hangup(self, pbx_id: str, cause: int) -> bool:
        answers = self._link.pipeline([f"uuid_kill {leg} {cause}" for leg in self._legs(pbx_id)])
        return any(answer.startswith("+OK") for answer in answers)

    def _legs(self, pbx_id: str) -> list[str]:
        """The call's legs; for a call not seen yet, its first leg, which gave it its id."""
        return [leg for leg in self._calls.legs_of(pbx_id) or [pbx_id] if text.is_id(leg)]

    def _green_record(self, pbx_id: str, path: str, variables: Mapping[str, str]) -> str:
        for leg in self._legs(pbx_id):
            for name, value in variables.items():
                self._link.api(f"uuid_setvar {leg} {name} {value}")
            answer = self._link.api(f"uuid_record {leg} start {path}")
            if answer.startswith("+OK"):
                return leg
            if "locate" not in answer:
                raise CommandRefused(f"uuid_record: {answer.strip()[:120]}")
        return ""

    def _green_uuid_record(self, leg: str, verb: str, path: str) -> None:
        if not text.is_id(leg):
            raise CommandRefused(f"{leg[:64]!r} is no leg")
        answer = self._link.api(f"uuid_record {leg} {verb} {path}")
        if not answer.startswith("+OK"):
            raise CommandRefused(f"uuid_record {verb}: {answer.strip()[:120]}")

    def _green_pause(self, verb: str, wanted: str) -> None:
        self._link.order(f"fsctl {verb} inbound")
        if self._link.api("fsctl pause_check inbound").strip() != wanted:
            raise CommandRefused(f"fsctl {verb} inbound had no effect")

    def _green_secure(self, pbx_id: str) -> Sequence[Security]:
        legs = self._legs(pbx_id)
        asked = [f"uuid_getvar {leg} {name}" for leg in legs for name in freeswitch_media.ASKED]
        answers = iter(self._link.pipeline(asked))
        found = []
        for leg in legs:
            told = {name: _value(next(answers)) for name in freeswitch_media.ASKED}
            if (security := freeswitch_media.security(leg, told)) is not None:
                found.append(security)
        return found


def _value(answer: str) -> str:
    """The value of a uuid_getvar, "" for one that is not set or whose channel is gone."""
    value = answer.strip("\n")
    return "" if value == "_undef_" or value.startswith("-ERR") else value
