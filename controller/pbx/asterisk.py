"""The Asterisk driver: pbx/base.py on one AMI link.

What Asterisk must be told (manager.conf; the least that the driver needs):

    [general]
    enabled = yes
    channelvars = PBXCTL_PLACEMENT
    [pbxctl]
    secret = ...
    deny = 0.0.0.0/0.0.0.0
    permit = <the driver's address>
    read = system,call,dialplan
    write = system,call,reporting,originate
    eventfilter(action(include),name(Newchannel)) =
    eventfilter(action(include),name(Newstate)) =
    eventfilter(action(include),name(Hangup)) =
    eventfilter(action(include),name(BridgeEnter)) =
    eventfilter(action(include),name(BridgeLeave)) =
    eventfilter(action(include),name(OriginateResponse)) =
    eventfilter(action(include),name(ContactStatus)) =
    eventfilter(action(include),name(VarSet),header(Variable),method(exact)) = PBXCTL_PLACEMENT
    eventfilter(action(include),name(VarSet),header(Variable),method(exact)) = RTPAUDIOQOS

read: system brings FullyBooted and ContactStatus, call the channels, dialplan VarSet. write:
reporting is for CoreSettings, CoreShowChannels and Getvar, call for Hangup, originate for
Originate, system for PJSIPSetMaintenance (drain), PJSIPShowContacts, MixMonitor and
Reload. Without `system` all else works, and drain, phones, recordings and reload raise
CommandRefused. `command` and `config`
are not wanted: each can mean a shell.

The dialplan sets PBXCTL_PLACEMENT from X-Pbxctl-Placement as its first step on calls of trunk
peers, and on no other.

Asterisk counts calls against maxcalls per channel that runs a dialplan (CoreMaxCalls), so it is
given as calls_max; 0 there means no limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import PurePosixPath

from controller.errors import CommandRefused, DeadlineExceeded, LinkLost, PbxctlError, UsageError
from controller.model import (
    CallTruth,
    EventsLost,
    Kind,
    LoadSample,
    NodeEvent,
    NodeFacts,
    OriginateRequest,
    PhoneRegistered,
    Security,
)
from controller.pbx import asterisk_media, asterisk_phones
from controller.pbx.ami import CONNECT_DEADLINE_S, Link
from controller.pbx.ami_message import Received
from controller.pbx.asterisk_calls import (
    PLACEMENT_VARIABLE,
    PLACEMENT_WAIT_S,
    Calls,
    Truth,
)
from controller.pbx.base import COMMAND_DEADLINE_S, VALUE_MAX_CHARS, Driver
from controller.pbx.recorded_files import mixmonitor_options, stem_of

QUEUE_MAX = 50_000
CALLS_AT_ONCE = 1_000  # of a long list, before the loop gets its turn
LOAD_INTERVAL_S = 1.0
CALL_EVENTS = ("Newchannel", "Newstate", "Hangup", "BridgeEnter", "BridgeLeave", "VarSet")
#: what `reload` accepts, and the module that serves it
RELOADABLE = {
    "acl": "acl",
    "dialplan": "pbx_config.so",
    "features": "features",
    "logger": "logger",
    "manager": "manager",
    "musiconhold": "res_musiconhold.so",
    "pjsip": "res_pjsip.so",
    "queues": "app_queue.so",
}
#: has the dialplan note the recording's end (pbxctl-extensions.conf)
RECORDED = ("CHANNEL(hangup_handler_push)", "pbxctl-recorded,s,1")
PLACEMENT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")  # no comma: Variable is a comma list


class AsteriskDriver(Driver):
    """`cpus` is the node's number of CPUs, by which its load average becomes a share of busy
    time; without it cpu is not told (Asterisk itself does not know the number)."""

    def __init__(
        self,
        host: str,
        port: int,
        user: str,
        secret: str,
        *,
        tls: ssl.SSLContext | None = None,
        cpus: int | None = None,
    ) -> None:
        self._link = Link(host, port, tls=tls, on_lost=self._on_lost)
        self._user = user
        self._secret = secret
        self._cpus = cpus
        self._calls = Calls()
        self._out: deque[NodeEvent] = deque()
        self._overflow = 0
        self._wake = asyncio.Event()
        self._booted: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._originating: dict[str, asyncio.Future[None]] = {}
        self._release: asyncio.TimerHandle | None = None
        self._sampler: asyncio.Task[None] | None = None
        self._calls_max: int | None = None

    @property
    def bad_events(self) -> int:  # type: ignore[override]
        return self._link.bad_events + self._calls.bad_events

    async def connect(self) -> NodeFacts:
        for name in CALL_EVENTS:
            self._link.register_event(name, self._on_call_event)
        self._link.register_event("ContactStatus", self._on_contact)
        self._link.register_event("FullyBooted", self._on_booted)
        self._link.register_event("OriginateResponse", self._on_originate_response)
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                await self._link.connect(self._user, self._secret)
                facts = await self._meet()
        except TimeoutError as error:
            await self.close()
            raise DeadlineExceeded(
                "logged in, but the node did not get ready",
                hint="it is still starting, or its manager.conf stanza lacks read=system",
            ) from error
        except PbxctlError:
            await self.close()
            raise
        self._sampler = asyncio.create_task(self._sample())
        return facts

    async def _meet(self) -> NodeFacts:
        uptime_s = await self._booted
        settings = (await self._link.ask("CoreSettings")).headers
        version = re.match(r"[\d.]+", settings.get("AsteriskVersion", ""))
        limit = settings.get("CoreMaxCalls", "")
        self._calls_max = int(limit) or None if limit.isdecimal() and len(limit) < 9 else None
        await self.truth()  # the calls that are up already, as CallStarted
        return NodeFacts(
            Kind.ASTERISK, version[0] if version else "", uptime_s, calls_max=self._calls_max
        )

    async def watch(self) -> AsyncIterator[Sequence[NodeEvent]]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = list(self._out)
            self._out.clear()
            if self._overflow:
                batch.insert(0, EventsLost(self._overflow, "the reader was too slow"))
                self._overflow = 0
            if batch:
                yield batch
            if self._link.error is not None and not self._out:
                raise self._link.error

    def silence_s(self) -> float:
        return self._link.silence_s()

    async def truth(self) -> Sequence[CallTruth]:
        truth = Truth()
        before = set(self._calls.legs)

        def on_row(row: Received) -> None:
            truth.add(row)
            self._tell(self._calls.feed(row, self._link.loop.time()))

        await self._link.ask_list("CoreShowChannels", "CoreShowChannel", on_row)
        self._tell(self._calls.listed(before, truth.legs))
        calls = []
        for call in truth.calls(self._calls):
            calls.append(call)
            if len(calls) % CALLS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return calls

    async def phones(self) -> Sequence[PhoneRegistered]:
        found: dict[str, PhoneRegistered] = {}

        def on_row(row: Received) -> None:
            phone = asterisk_phones.listed(row, time.time())
            # one row a phone: a contact that is being replaced may still be listed
            if phone and (phone.name not in found or found[phone.name].expires_s < phone.expires_s):
                found[phone.name] = phone

        try:
            await self._link.ask_list("PJSIPShowContacts", "ContactList", on_row)
        except CommandRefused as error:
            if "no contacts found" not in error.message.lower():
                raise
        return list(found.values())

    async def originate(self, request: OriginateRequest) -> str:
        if not PLACEMENT_ID.fullmatch(request.placement):
            raise UsageError("a placement id has 1 to 128 letters, digits or _ . : -")
        # Bridging picks the oldest Linkedid by the "epoch.number" after the last dash.
        pbx_id = f"pbxctl-{secrets.token_hex(8)}-{int(time.time())}.{secrets.randbelow(10**6)}"
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._originating[pbx_id] = accepted
        self._calls.expected[pbx_id] = request.placement
        try:
            async with asyncio.timeout(COMMAND_DEADLINE_S):
                await self._link.ask(
                    "Originate",
                    Channel=request.endpoint,
                    Context=request.context,
                    Exten=request.exten,
                    Priority="1",
                    CallerID=request.caller[:VALUE_MAX_CHARS],
                    Timeout=str(int(request.timeout_s * 1000)),
                    Variable=f"{PLACEMENT_VARIABLE}={request.placement}",
                    Async="true",
                    ChannelId=pbx_id,
                    OtherChannelId=f"{pbx_id};2",  # the far half of a Local channel
                )
                await accepted
        except TimeoutError as error:
            raise DeadlineExceeded("Originate: neither a channel nor a failure came") from error
        finally:
            accepted.cancel()
            self._originating.pop(pbx_id, None)
            self._calls.expected.pop(pbx_id, None)
        return pbx_id

    async def hangup(self, pbx_id: str, cause: int = 16) -> bool:
        call = self._calls.calls.get(pbx_id)
        if call is None:
            return False
        done = await asyncio.gather(
            *(self._hangup_leg(leg, cause) for leg in call.legs), return_exceptions=True
        )
        for result in done:
            if isinstance(result, BaseException):
                raise result
        return any(done)

    async def _hangup_leg(self, uniqueid: str, cause: int) -> bool:
        try:  # Asterisk takes a Uniqueid for a channel name; names change on a masquerade
            await self._link.ask("Hangup", Channel=uniqueid, Cause=str(cause))
        except CommandRefused:  # the leg was gone already
            return False
        return True

    async def drain(self) -> None:
        await self._link.ask("PJSIPSetMaintenance", Endpoint="all", State="on")

    async def resume(self) -> None:
        await self._link.ask("PJSIPSetMaintenance", Endpoint="all", State="off")

    async def secure(self, pbx_id: str) -> Sequence[Security]:
        call = self._calls.calls.get(pbx_id)
        known = ((uid, self._calls.legs.get(uid)) for uid in sorted(call.legs if call else ()))
        return await asterisk_media.security(
            self._getvar, [(uid, leg) for uid, leg in known if leg is not None]
        )

    async def _getvar(self, variable: str, channel: str) -> str:
        answer = await self._link.ask("Getvar", Variable=variable, Channel=channel)
        return answer.headers.get("Value", "")

    async def start_recording(self, pbx_id: str, path: str, rate_hz: int, on_end: str) -> str:
        call = self._calls.calls.get(pbx_id)
        options = mixmonitor_options(stem_of(path), rate_hz)
        wanted = (("PBXCTL_RECORDING", PurePosixPath(path).stem), RECORDED)
        for leg in sorted(call.legs if call else ()):  # the oldest first: the caller's
            try:
                for name, value in wanted:
                    await self._link.ask("Setvar", Channel=leg, Variable=name, Value=value)
                await self._link.ask("MixMonitor", Channel=leg, Options=options)
            except CommandRefused as error:
                if "no such channel" in error.message.lower():
                    continue  # it ended just now
                raise
            return leg
        return ""

    async def stop_recording(self, leg: str, path: str) -> None:
        with contextlib.suppress(CommandRefused):
            await self._link.ask("StopMixMonitor", Channel=leg)

    async def mask_recording(self, leg: str, path: str, on: bool) -> None:
        state = "1" if on else "0"
        await self._link.ask("MixMonitorMute", Channel=leg, Direction="both", State=state)

    async def reload(self, module: str) -> None:
        if module not in RELOADABLE:
            raise UsageError(f"cannot reload {module!r}: choose of {', '.join(sorted(RELOADABLE))}")
        await self._link.ask("Reload", Module=RELOADABLE[module])

    async def close(self) -> None:
        self._link.close()

    def _on_call_event(self, _: Link, event: Received) -> None:
        self._tell(self._calls.feed(event, self._link.loop.time()))
        if event.headers["Event"] == "Newchannel":
            accepted = self._originating.get(event.headers.get("Uniqueid", ""))
            if accepted is not None and not accepted.done():
                accepted.set_result(None)

    def _on_contact(self, _: Link, event: Received) -> None:
        phone = asterisk_phones.status(event)
        if phone is not None:
            self._tell([phone])

    def _on_booted(self, _: Link, event: Received) -> None:
        uptime = event.headers.get("Uptime", "")
        if not self._booted.done():
            self._booted.set_result(float(uptime) if uptime.isdecimal() else 0.0)

    def _on_originate_response(self, _: Link, event: Received) -> None:
        accepted = self._originating.get(event.headers.get("Uniqueid", ""))
        if accepted is not None and not accepted.done():
            if event.headers.get("Response") == "Failure":
                accepted.set_exception(
                    CommandRefused(f"Originate failed, reason {event.headers.get('Reason', '')}")
                )
            else:
                accepted.set_result(None)

    def _on_lost(self, error: PbxctlError) -> None:
        for accepted in self._originating.values():
            if not accepted.done():
                accepted.set_exception(LinkLost(f"Originate: {error}"))
        if not self._booted.done():
            self._booted.set_exception(error)
            self._booted.exception()  # nobody waits for it when the login already failed
        for timer in (self._release, self._sampler):
            if timer is not None:
                timer.cancel()
        self._wake.set()

    def _tell(self, events: Sequence[NodeEvent]) -> None:
        if self._calls.waiting and self._release is None:
            self._release = self._link.loop.call_later(PLACEMENT_WAIT_S, self._on_release)
        if not events:
            return
        self._out.extend(events)
        while len(self._out) > QUEUE_MAX:
            self._out.popleft()
            self._overflow += 1
        self._wake.set()

    def _on_release(self) -> None:
        self._release = None
        self._tell(self._calls.release(self._link.loop.time()))

    async def _sample(self) -> None:
        """One LoadSample a second, until the link is lost."""
        loop = asyncio.get_running_loop()
        then_s, started = loop.time(), self._calls.started
        while True:
            await asyncio.sleep(LOAD_INTERVAL_S)
            cpu = await self._cpu()
            now_s = loop.time()
            rate = (self._calls.started - started) / (now_s - then_s)
            then_s, started = now_s, self._calls.started
            self._tell(
                [
                    LoadSample(
                        channels=len(self._calls.legs),
                        calls_max=self._calls_max,
                        arrivals_per_s=rate,
                        cpu=cpu,
                        loss=self._calls.quality.loss(now_s),
                        jitter_ms=self._calls.quality.jitter_ms(now_s),
                        mes=self._calls.quality.mes(now_s),
                    )
                ]
            )

    async def _cpu(self) -> float | None:
        if self._cpus is None:
            return None
        try:
            answer = await self._link.ask("Getvar", Variable="SYSINFO(loadavg)")
            return min(1.0, max(0.0, float(answer.headers.get("Value", "")) / self._cpus))
        except (CommandRefused, DeadlineExceeded, LinkLost, ValueError):
            return None
