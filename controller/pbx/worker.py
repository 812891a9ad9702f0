"""One node under one driver process: keeps the link, turns events into the fleet's picture.

Invariants
    order     Redis hears of this node in the order in which the driver told it: everything that
              writes calls does so under `_writing`.
    in step   whenever a word to Redis may be lost, or events were, the node is out of step: no
              new call until the whole list of its calls was compared (promise 3). On a new link
              the comparison comes before the first beat: a node handed over in order is placed
              on meanwhile, until the word of its last driver is too old (lua/redis, claim).
    fencing   every write carries the lease. A stale one stops all writing until `renew` brings
              the next lease; the link to the PBX, and the calls on it, go on meanwhile.
    commands  are run once, one after the other; a repeat is Redis's decision, never ours. The next
              is taken when none runs, so that Redis knows which were lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from controller.config import NodeConfig, read_secret, split_address, stamp
from controller.config_recordings import RecordingsConfig
from controller.errors import (
    CommandRefused,
    DeadlineExceeded,
    FleetUnreachable,
    LinkLost,
    LoginRefused,
    PbxctlError,
    StaleEpoch,
)
from controller.fleet import commands
from controller.fleet.commands import CommandResult
from controller.fleet.files import NodeFiles
from controller.fleet.functions import Fleet
from controller.fleet.reconcile import LiveSet
from controller.fleet.state import Attestation, Beat, Lease
from controller.model import CallTruth, EventsLost, LoadSample, NodeEvent, NodeFacts
from controller.pbx.attestor import Attestor, Judge
from controller.pbx.base import Driver
from controller.pbx.carry_out import carry_out
from controller.pbx.options import OptionsProbe
from controller.pbx.worker_beat import beat_of, registration_of
from controller.pbx.worker_files import read_written
from controller.pbx.worker_metrics import (
    BAD_EVENTS,
    DRIFT,
    EVENT_LAG,
    EVENTS,
    EVENTS_LOST,
    LINK_UP,
    LINKS_LOST,
    LOGIN_REFUSED,
    WORDS_LOST,
)
from controller.pbx.worker_phones import Registrations
from controller.tasks import is_set, together

BEAT_S = 0.4
COMPARE_S = 5.0
# A frozen PBX keeps its sockets open: placement has stopped long before, this frees the link.
GIVE_UP_S = 15.0
SIP_SILENT_S = 1.6
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 5.0
SECRET_POLL_S = 2.0

log = logging.getLogger(__name__)


class Worker:
    """Runs until cancelled. `new_driver` makes an unconnected Driver from the node's secret.

    judge: what media must be; None where nothing is asked of it.
    """

    def __init__(
        self,
        fleet: Fleet,
        lease: Lease,
        config: NodeConfig,
        secret_file: Path,
        probe: OptionsProbe,
        owner: str,
        new_driver: Callable[[NodeConfig, str], Driver],
        judge: Judge | None = None,
        sample_share: float = 0.0,
        recordings: RecordingsConfig | None = None,
    ) -> None:
        self.fleet = fleet
        self.lease: Lease | None = lease
        self.name = lease.node
        self.config = config
        self._secret_file = secret_file
        self._secret_seen = (0, 0)
        self._secret_taken: tuple[int, int] | None = None
        self._probe = probe
        self._owner = owner
        self._new_driver = new_driver
        folder = (recordings or RecordingsConfig()).folder
        self._recorded_in = PurePosixPath(folder) / lease.node
        self._attestor = (
            Attestor(self.name, judge, self._attest, sample_share, self._seen) if judge else None
        )
        self._live = LiveSet()
        self._phones = Registrations(fleet, lease.node)
        self._files = NodeFiles(fleet, lease.node)
        self._facts: NodeFacts | None = None
        self._load = LoadSample()
        self._want = "standby" if config.standby else "active"
        self._want_heard = asyncio.Event()
        self._drained = False  # when a link ended, and not resumed since
        self._registered = False
        self._in_step = False
        self._writing = asyncio.Lock()
        self._compare_now = asyncio.Event()
        self._compared = asyncio.Event()  # on this link, or it cannot be now
        self._commands_wait = asyncio.Event()
        self._untold: tuple[Lease, str, bytes] | None = None  # a command's end, until Redis has it
        self._problem = ""

    def renew(self, lease: Lease) -> None:
        """The lease as last seen; another epoch means that Redis or its data was replaced."""
        if self.lease is None or self.lease.epoch != lease.epoch:
            self.lease = lease
            self._registered = False
            self._out_of_step()

    async def run(self) -> None:
        """Connects, serves, and connects anew until cancelled."""
        backoff_s = BACKOFF_FIRST_S
        try:
            while True:
                started = time.monotonic()
                try:
                    await self._connection()
                except LoginRefused as error:
                    if self._secret_seen == self._secret_taken:
                        # It was right a moment ago: the PBX is starting, not the secret wrong.
                        self._tell_problem(error.message)
                    else:
                        await self._refused(error)
                except PbxctlError as error:
                    self._tell_problem(error.message)
                await self._link_down()
                if time.monotonic() - started > 2 * BACKOFF_MAX_S:
                    backoff_s = BACKOFF_FIRST_S
                # Full jitter: a fleet of links that broke together does not come back as one.
                await self._pause(random.uniform(0, backoff_s))  # noqa: S311
                backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
        finally:
            self._probe.forget(self.name)
            LINK_UP.labels(self.name).set(0)

    def _tell_problem(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("node %s: %s", self.name, problem, extra={"node": self.name})
        self._problem = problem

    async def _pause(self, seconds: float) -> None:
        """Waits without a link, and keeps telling so: another driver may have said otherwise."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(left, BEAT_S))
            await self._word(Beat(link=False, problem=self._problem))

    async def _refused(self, error: LoginRefused) -> None:
        """A wrong password is shown, not tried again: until its file is another one."""
        LOGIN_REFUSED.labels(self.name).inc()
        self._tell_problem(error.message)
        while stamp(self._secret_file) == self._secret_seen:
            await self._pause(SECRET_POLL_S)

    async def _connection(self) -> None:
        self._secret_seen = stamp(self._secret_file)
        driver = self._new_driver(self.config, read_secret(self._secret_file))
        if self._attestor:
            self._attestor.begin()
        try:
            self._facts = await driver.connect()
            self._secret_taken = self._secret_seen
            self._problem = ""
            self._compared.clear()
            LINK_UP.labels(self.name).set(1)
            log.info("node %s: linked, version %s", self.name, self._facts.version)
            self._out_of_step()
            attests = [self._attestor.run(driver)] if self._attestor else []
            # One task's end ends the connection; the first reason is the one to tell.
            try:
                await together(
                    self._pump(driver),
                    self._beats(driver),
                    self._compares(driver),
                    self._probes(),
                    self._commands(driver),
                    self._phones.watch(driver),
                    read_written(self._files, self.config.kind, lambda: self.lease, driver),
                    *attests,
                )
            finally:
                self._drained = self._drained or self._want == "draining"
        finally:
            BAD_EVENTS.labels(self.name).inc(driver.bad_events)
            await driver.close()

    async def _link_down(self) -> None:
        LINK_UP.labels(self.name).set(0)
        LINKS_LOST.labels(self.name).inc()
        await self._word(Beat(link=False, problem=self._problem))

    def _out_of_step(self) -> None:
        self._in_step = False
        self._compare_now.set()

    async def _word(self, beat: Beat) -> int:
        """One beat; how many commands wait or run. Redis away or the lease lost: 0, out of step."""
        self._phones.renew(self.lease)
        if self.lease is None:
            return 0
        try:
            if not self._registered:
                await self._register(self.lease)
            self._want, waiting = await self.fleet.beat(self.lease, beat)
            self._want_heard.set()
            return waiting
        except StaleEpoch:
            self.lease = None
        except FleetUnreachable as error:
            WORDS_LOST.inc()
            log.debug("node %s: %s", self.name, error)
            self._registered = False
        self._out_of_step()
        return 0

    async def _enrol(self) -> None:
        async with self._writing:
            if self.lease and not self._registered:
                with contextlib.suppress(StaleEpoch, FleetUnreachable):  # the next beat acts on it
                    await self._register(self.lease)

    async def _register(self, lease: Lease) -> None:
        told = registration_of(self.config, self._facts, self._want, self._owner)
        await self.fleet.register(lease, told)
        self._registered = True

    async def _pump(self, driver: Driver) -> None:
        async for batch in driver.watch():
            now = time.monotonic()
            async with self._writing:
                for event in batch:
                    EVENTS.labels(type(event).__name__).inc()
                    self._live.apply(event, now)
                    if isinstance(event, LoadSample):
                        self._load = event
                    elif isinstance(event, EventsLost):
                        EVENTS_LOST.labels(self.name).inc(event.count)
                        self._out_of_step()
                if self._attestor:
                    self._attestor.heard(batch)
                await self._write_events(batch)
            EVENT_LAG.observe(time.monotonic() - now)
            self._phones.take(batch)
        raise LinkLost("the driver's stream of events ended")

    async def _write_events(self, batch: Sequence[NodeEvent]) -> None:
        if self.lease is None or not self._registered:
            self._out_of_step()
            return
        try:
            await self.fleet.events(self.lease, batch)
        except StaleEpoch:
            self.lease = None
            self._out_of_step()
        except FleetUnreachable:
            WORDS_LOST.inc()
            self._registered = False
            self._out_of_step()

    async def _attest(self, pbx_id: str, told: Attestation, ports: list[int]) -> bool:
        async with self._writing:
            if self.lease is None or not self._registered:
                return False
            try:
                return await self.fleet.attest(self.lease, pbx_id, told, ports)
            except (StaleEpoch, FleetUnreachable):  # the next beat finds out and acts on it
                WORDS_LOST.inc()
                return False

    async def _seen(self) -> Sequence[tuple[str, int]]:
        with contextlib.suppress(StaleEpoch, FleetUnreachable):  # the next beat finds out
            return await self.fleet.seen(self.lease) if self.lease else ()
        return ()

    async def _beats(self, driver: Driver) -> None:
        was_silent = False
        await self._compared.wait()
        while True:
            silence_s = driver.silence_s()
            if silence_s > GIVE_UP_S:
                raise LinkLost(f"the link was silent for {GIVE_UP_S:.0f} s")
            if silence_s > BEAT_S * 4:
                was_silent = True
            elif was_silent:
                was_silent = False
                self._out_of_step()
            # Under the lock: a beat that says "out of step" must not overtake a comparison's end.
            async with self._writing:
                sip = self._probe.silence_s(self.name) <= SIP_SILENT_S
                told = beat_of(self.config, self._facts, self._load, silence_s, sip, self._in_step)
                waiting = await self._word(told)
            if waiting:
                self._commands_wait.set()
            await asyncio.sleep(BEAT_S)

    async def _probes(self) -> None:
        host, port = split_address(self.config.sip)
        while True:
            self._probe.ask(self.name, host, port)
            await asyncio.sleep(BEAT_S)

    async def _compares(self, driver: Driver) -> None:
        await self._enrol()
        while True:
            await is_set(self._compare_now, COMPARE_S * random.uniform(0.8, 1.0))  # noqa: S311
            self._compare_now.clear()
            if self.lease and self._registered:
                try:
                    await self._compare(driver)
                except DeadlineExceeded as error:
                    # A PBX under storm may be slow to list; that alone does not make it dead.
                    log.warning("node %s: %s", self.name, error.message)
            self._compared.set()
            if not self._in_step:
                await asyncio.sleep(BEAT_S)
                self._compare_now.set()

    async def _compare(self, driver: Driver) -> None:
        """Takes the node's list and makes the picture equal to it."""
        asked_s = time.monotonic()
        listed: list[CallTruth] = list(await driver.truth())
        async with self._writing:
            erred = self._live.mend(listed, asked_s)
            if self._attestor:
                self._attestor.listed(self._live.calls.values())
            if self.lease is None or not self._registered:
                return
            try:
                # In step from here on unless something is lost again while this is under way.
                self._in_step = True
                added, removed = await self.fleet.reconcile(self.lease, self._live.calls.values())
                DRIFT.labels(self.name).set(erred)
                if added + removed:
                    log.info("node %s: compared, %d added, %d removed", self.name, added, removed)
            except StaleEpoch:
                self.lease = None
                self._in_step = False
            except FleetUnreachable:
                WORDS_LOST.inc()
                self._registered = False
                self._in_step = False

    async def _commands(self, driver: Driver) -> None:
        await self._want_heard.wait()
        with contextlib.suppress(CommandRefused):
            if self._want == "draining":
                await driver.drain()  # a PBX that restarted has forgotten it
            elif self._drained:
                await driver.resume()  # it was wanted while there was no link to tell it by
                self._drained = False
        while True:
            await self._commands_wait.wait()
            self._commands_wait.clear()
            try:
                await self._tell_end()
                while self.lease and (command := await self.fleet.take(self.lease)):
                    lease, lost = self.lease, None
                    try:
                        result = await carry_out(driver, command, self._compare, self._recorded_in)
                    except LinkLost as error:
                        lost = error
                        result = CommandResult("unknown", error.message)
                    self._untold = (lease, command.id, commands.encode(result))
                    await self._tell_end()
                    if lost:
                        raise lost
            except FleetUnreachable as error:
                log.debug("node %s: its commands wait: %s", self.name, error)
            except StaleEpoch:
                self._untold = None  # whoever has the lease next decides what becomes of it

    async def _tell_end(self) -> None:
        if self._untold:
            await self.fleet.done(*self._untold)
            self._untold = None
