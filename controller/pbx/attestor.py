"""Asks a node of its calls' media, has it judged, writes it down, and ends what must not go on.

One per worker; all state is in memory, and at each link made anew from the node's list.

    never in the way   `heard` and `listed` only note what is due; ASKERS tasks do the asking, so
                       the pump of events never waits and a node has few questions open at a time.
    fails closed       a call of which nothing is known within the policy's grace is judged as
                       clear; hanging up does not wait for Redis.
    silence            of a PBX about a call attested before, on this link or the one before, is no
                       change of it: a frozen node that thaws keeps its calls.
    packets            what the agent saw in clear, on a port at which it was asked to look, counts
                       against the leg there for the rest of the call.
    again              each call is asked about again every `driver.recheck_s`, within
                       RECHECKS_PER_S: that notices what no event tells, and repeats a hang-up that
                       had no effect. More calls than that make the round longer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence, Set
from dataclasses import dataclass, field

import msgspec

from controller.errors import CommandRefused, DeadlineExceeded
from controller.fleet.state import Attestation, LegMedia
from controller.model import (
    CallAnswered,
    CallEnded,
    CallTruth,
    MediaChanged,
    NodeEvent,
    Ruling,
    Security,
)
from controller.pbx import attestor_metrics as metrics
from controller.pbx.base import Driver
from controller.tasks import together

ASKERS = 8
ASK_TIMEOUT_S = 0.25
ASK_AGAIN_S = 0.05
HANGUP_TIMEOUT_S = 1.0
RECHECKS_PER_S = 500
SEEN_S = 0.25

log = logging.getLogger(__name__)

Judge = Callable[[Sequence[Security] | None, float], Ruling]
"""The legs, None when the PBX did not answer, and for how many seconds it has not been able to
tell; after its answers, the seconds since the call was answered."""
Write = Callable[[str, Attestation, list[int]], Coroutine[None, None, bool]]
"""pbx_id, what it is attested to be, and the RTP ports at which the agent is to look for itself;
False when it could not be written."""
Seen = Callable[[], Awaitable[Sequence[tuple[str, int]]]]
"""Takes what the node's agent saw in clear since it was last asked: pbx_id and RTP port."""


async def nothing_seen() -> Sequence[tuple[str, int]]:
    return ()


@dataclass
class _Answered:
    since_s: float
    attested: Attestation | None = None
    written: bool = False
    checked_s: float = 0.0
    unsure_s: float | None = None  # since when the PBX has not been able to tell
    looked_at: set[int] = field(default_factory=set)
    clear_ports: set[int] = field(default_factory=set)


class Attestor:
    """sample_share: of the calls, those whose packets the agent is asked to look at."""

    def __init__(
        self,
        node: str,
        judge: Judge,
        write: Write,
        sample_share: float = 0.0,
        seen: Seen = nothing_seen,
    ) -> None:
        self._node = node
        metrics.from_zero(node)
        self._judge = judge
        self._write = write
        self._sample_share = sample_share
        self._seen = seen
        self._calls: dict[str, _Answered] = {}
        self._before: dict[str, _Answered] = {}  # attested on the last link, until the first list
        self._due: dict[str, None] = {}
        self._wake = asyncio.Semaphore(0)

    def begin(self) -> None:
        """A new link. What was to be hung up on the last one is judged as if it was never seen."""
        self._before = {
            pbx_id: call
            for pbx_id, call in (self._before | self._calls).items()
            if call.attested is not None and call.attested.action != "hangup"
        }
        for call in self._before.values():
            call.written, call.unsure_s = False, None
        self._calls, self._due, self._wake = {}, {}, asyncio.Semaphore(0)

    def heard(self, events: Iterable[NodeEvent]) -> None:
        """Takes note of events, in their order. Never waits."""
        for event in events:
            match event:
                case CallAnswered() | MediaChanged():
                    self._ask_about(event.pbx_id)
                case CallEnded():
                    self._calls.pop(event.pbx_id, None)
                    self._before.pop(event.pbx_id, None)
                    self._due.pop(event.pbx_id, None)

    def listed(self, calls: Iterable[CallTruth]) -> None:
        """The node's own list: what it has answered and we have not heard of is due too."""
        answered = {call.pbx_id for call in calls if call.answered}
        for pbx_id in answered - self._calls.keys():
            self._ask_about(pbx_id)
        for pbx_id in self._calls.keys() - answered:
            del self._calls[pbx_id]
        self._before.clear()

    def _ask_about(self, pbx_id: str) -> None:
        if pbx_id not in self._calls:
            before = self._before.pop(pbx_id, None)
            self._calls[pbx_id] = before or _Answered(time.monotonic())
        if pbx_id not in self._due:
            self._due[pbx_id] = None
            self._wake.release()

    async def run(self, driver: Driver) -> None:
        """Until cancelled or the link is lost."""
        asking = [self._ask_each(driver) for _ in range(ASKERS)]
        hearing = [self._hear_agent()] if self._sample_share else []
        await together(*asking, *hearing, self._recheck(driver))

    async def _hear_agent(self) -> None:
        while True:
            await asyncio.sleep(SEEN_S)
            for pbx_id, port in await self._seen():
                call = self._calls.get(pbx_id)
                # Agents share one user of Redis: none may speak of what it was not asked.
                if call and port in call.looked_at:
                    call.clear_ports.add(port)
                    self._ask_about(pbx_id)

    async def _ask_each(self, driver: Driver) -> None:
        while True:
            await self._wake.acquire()
            if not self._due:  # the call ended first
                continue
            pbx_id = next(iter(self._due))
            del self._due[pbx_id]
            await self._attest(driver, pbx_id)

    async def _recheck(self, driver: Driver) -> None:
        while True:
            await asyncio.sleep(driver.recheck_s / 4)
            now_s = time.monotonic()
            old_s = now_s - driver.recheck_s
            budget = round(RECHECKS_PER_S * driver.recheck_s / 4)
            for pbx_id, call in self._calls.items():
                if budget and call.checked_s and call.checked_s < old_s:
                    budget -= 1
                    self._ask_about(pbx_id)

    async def _attest(self, driver: Driver, pbx_id: str) -> None:
        call = self._calls.get(pbx_id)
        if call is None:
            return
        legs = _as_seen(await self._ask(driver, pbx_id), call.clear_ports)
        call.checked_s = time.monotonic()
        if pbx_id not in self._calls or (not legs and call.attested is not None):
            return
        if legs is not None and all(leg.encrypted is not None for leg in legs):
            call.unsure_s = None
        elif call.unsure_s is None:
            # A leg that is just ending can not tell either: that alone is no reason.
            call.unsure_s = call.since_s if call.attested is None else call.checked_s
        waited_s = call.checked_s - (call.unsure_s or call.since_s)
        ruling = self._judge(legs, waited_s)
        if ruling.action == "wait":
            asyncio.get_running_loop().call_later(ASK_AGAIN_S, self._ask_again, pbx_id)
        else:
            await self._rule(driver, pbx_id, call, ruling, legs or ())

    def _ask_again(self, pbx_id: str) -> None:
        if pbx_id in self._calls:
            self._ask_about(pbx_id)

    async def _ask(self, driver: Driver, pbx_id: str) -> Sequence[Security] | None:
        """Once, and once more when the first had no answer."""
        for _ in range(2):
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    return await driver.secure(pbx_id)
            except (TimeoutError, DeadlineExceeded, CommandRefused):
                metrics.UNANSWERED.labels(self._node).inc()
        return None

    async def _rule(
        self,
        driver: Driver,
        pbx_id: str,
        call: _Answered,
        ruling: Ruling,
        legs: Sequence[Security],
    ) -> None:
        told = Attestation(
            ruling.verdict,
            ruling.action,
            ruling.reason,
            legs=tuple(
                LegMedia(leg.leg, leg.encrypted, leg.suite, leg.signalling_tls, leg.peer)
                for leg in legs
            ),
        )
        first, changed = call.attested is None, call.attested != told
        call.attested = told
        write = None
        if changed or not call.written:
            sampled = first and random.random() < self._sample_share  # noqa: S311
            ports = _ports(legs) if sampled else []
            call.looked_at.update(ports)
            write = asyncio.create_task(self._write(pbx_id, told, ports))
        try:
            if changed:
                self._tell(pbx_id, told)
            if ruling.action == "hangup":
                metrics.HANGUPS.labels(self._node).inc(changed)
                async with asyncio.timeout(HANGUP_TIMEOUT_S):
                    await driver.hangup(pbx_id, ruling.cause)
        except (TimeoutError, DeadlineExceeded, CommandRefused) as error:
            log.warning("node %s: a call was not hung up yet: %r", self._node, error)
        finally:
            if write is not None:
                call.written = await write
        if first:
            metrics.SECONDS.observe(time.monotonic() - call.since_s)

    def _tell(self, pbx_id: str, told: Attestation) -> None:
        for leg in told.legs:
            verdict = {True: "encrypted", False: "plain", None: "unknown"}[leg.encrypted]
            metrics.LEGS.labels(metrics.suite_label(leg.suite, leg.encrypted), verdict).inc()
        if told.action != "none":
            metrics.ALARMS.labels("media").inc()
            log.warning(
                "node %s: call %s: %s%s", self._node, pbx_id, told.reason,
                "; hung up" if told.action == "hangup" else "", extra={"node": self._node},
            )  # fmt: skip


def _as_seen(legs: Sequence[Security] | None, clear_ports: Set[int]) -> Sequence[Security] | None:
    if not legs or not clear_ports:
        return legs
    return [
        msgspec.structs.replace(leg, clear_packets=True)
        if not clear_ports.isdisjoint(_ports([leg]))
        else leg
        for leg in legs
    ]


def _ports(legs: Sequence[Security]) -> list[int]:
    found = (leg.local.rpartition(":")[2] for leg in legs)
    return [int(port) for port in found if port.isascii() and port.isdigit() and len(port) < 6]
