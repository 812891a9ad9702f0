"""One node's recordings: from the file in the tmpfs to the vault's word that it has them.

Every TICK_S one pass over all files, and one request with all that is new. What the vault has not
answered for within PATIENCE_S goes to the spool as well, and from then on everything goes through
the spool until that is empty: what a recording has there comes before what it has here. Audio
leaves the tmpfs once it is sealed and synced in the spool, or answered for by the vault.

The invariant: what `gather` handed out is in the request under way, in the spool, or rolled back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from controller.agent import recording_metrics as metrics
from controller.agent import tmpfs
from controller.agent.sealing import Gatherer, Recording
from controller.agent.shipping import Flight, Refusal, Shipping
from controller.agent.spool import Openings, Spool, SpoolFull
from controller.agent.tmpfs import Files, Memo
from controller.errors import PbxctlError
from controller.vault import wire
from controller.vault.body import CHUNK
from controller.vault.wire import Ack, End, Frame, Outcome, State

TICK_S = 0.1
PATIENCE_S = 1.0
RETRY_FIRST_S = 0.5
SWEEP_EVERY_S = 5.0
RETRY_MAX_S = 5.0
#: of audio in one request; wire.REQUEST_MAX_BYTES leaves room for the rest
REQUEST_BYTES = 8 << 20
#: of the tmpfs; above it recordings are stopped when the spool is full too
TMPFS_SHARE_MAX = 0.85
#: no PBX can write a further buffer: its driver did not stop it in time
TMPFS_SHARE_BRIM = 0.99

_log = logging.getLogger(__name__)


class Recorder:
    """`run` ends only when cancelled. alarm: told once of each new trouble, in words; stop: asks
    the PBX to end a recording."""

    def __init__(
        self,
        node: str,
        folder: Path,
        spool: Spool,
        openings: Openings,
        shipping: Shipping,
        *,
        alarm: Callable[[str], None],
        stop: Callable[[Memo], None],
    ) -> None:
        self._node = node
        self._folder = folder
        self._spool = spool
        self._openings = openings
        self._shipping = shipping
        self._alarm = alarm
        self._stop = stop
        self._gatherer = Gatherer(REQUEST_BYTES)
        self.live: dict[str, Recording] = {}
        self._orphans: dict[str, tuple[bytes, str]] = {}
        self._flight: Flight | None = None
        self._retry_at_s = 0.0
        self._pause_s = RETRY_FIRST_S
        self._full = ""
        self._vault_away = ""
        self._swept_s = 0.0
        #: why nothing should be where it is: what is safe is freed at once
        self.place_problem = ""
        self._resume()

    def _resume(self) -> None:
        for files in tmpfs.found(self._folder):
            try:
                memo = files.open()
                self.live[files.recording] = Recording(files, memo, files.mark())
            except (OSError, msgspec.DecodeError, PbxctlError) as error:
                self._alarm(f"recording {files.recording} cannot be gone on with: {error}")
        for recording, begin in self._openings.all().items():
            if recording not in self.live:
                self._orphans[recording] = begin, "the node lost its memory"
        if self.live or self._orphans or len(self._spool):
            _log.warning(
                "%s: goes on with %d recordings, %d requests in the spool, %d lost in a crash",
                self._node, len(self.live), len(self._spool), len(self._orphans),
            )  # fmt: skip

    @property
    def problem(self) -> str:
        """Why no further recording may begin; "" when one may."""
        if self._full:
            return f"the spool is full: {self._full}"
        return ""

    def begin(self, files: Files, memo: Memo) -> None:
        """Raises OSError when the disk fails."""
        self._openings.add(files.recording, wire.encode(memo.begin))
        self.live[files.recording] = Recording(files, memo)

    def of_call(self, call: str) -> list[Recording]:
        """Those of a call that have not ended. call: as the PBX names it, or its Call-ID."""
        return [
            recording
            for recording in list(self.live.values())  # threads take out of it
            if call in (recording.memo.pbx, recording.memo.leg, recording.memo.call)
            and recording.memo.ended is None
        ]

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                began_s = loop.time()
                try:
                    more = await self._tick(began_s)
                    self._show()
                    if not more:
                        await self._until(began_s + TICK_S)
                except OSError as error:
                    self._roll_back(self.live.values())
                    self._tell_full(f"{error.filename or self._folder}: {error.strerror}")
                    self._show()
                    await asyncio.sleep(TICK_S)
        finally:
            if self._flight:
                self._flight.task.cancel()

    async def _until(self, then_s: float) -> None:
        """The rest of the tick: requests of the spool follow one another without a pause."""
        loop = asyncio.get_running_loop()
        while (left_s := then_s - loop.time()) > 0 and (flight := self._flight):
            await asyncio.wait({flight.task}, timeout=left_s)
            self._land(loop.time())
            if not self._flight and loop.time() >= self._retry_at_s:
                self._drain()
        await asyncio.sleep(max(0.0, then_s - loop.time()))

    async def _tick(self, now_s: float) -> bool:
        self._land(now_s)
        flight = self._flight
        if flight and not flight.late and flight.spooled is None and not flight.orphan:
            if now_s - flight.began_s < PATIENCE_S:
                return False
            flight.late = True
            self._roll_back(flight.recordings.values())
        spooling = bool(self._flight or len(self._spool) or now_s < self._retry_at_s)
        live = list(self.live.values())
        frames, more = await asyncio.to_thread(self._gatherer.gather, live, begin_all=spooling)
        if frames and spooling:
            more = await self._to_spool(frames) and more
        elif frames:
            self._fly(wire.encode(frames), frames)
            more = False
        if not self._flight and now_s >= self._retry_at_s:
            self._drain()
        for words in await asyncio.to_thread(self._tidy):
            self._alarm(words)
        return more

    def _fly(self, body: bytes, frames: list[Frame]) -> Flight:
        named = {f.recording: self.live[f.recording] for f in frames if f.recording in self.live}
        task = asyncio.create_task(self._shipping.ship(body))
        self._flight = Flight(task, asyncio.get_running_loop().time(), len(body), named)
        metrics.SEALED.labels(self._node).inc(len(body))
        return self._flight

    async def _to_spool(self, frames: list[Frame]) -> bool:
        named = [self.live[f.recording] for f in frames if f.recording in self.live]
        body = wire.encode(frames)
        try:
            await asyncio.to_thread(self._spool.add, body)
        except (SpoolFull, OSError) as error:
            self._roll_back(named)
            self._tell_full(str(error))
            return False
        self._full = ""
        metrics.SEALED.labels(self._node).inc(len(body))
        for recording in named:
            recording.spooled = recording.next
            if recording.finished:
                self._done(recording)
        return True

    def _drain(self) -> None:
        """The oldest of the spool, or what becomes of a recording that was lost."""
        try:
            first = self._spool.first()
        except OSError as error:
            self._alarm(f"the spool cannot be read: {error}")
            return
        if first:
            number, body = first
            self._fly(body, []).spooled = number
            return
        for recording, (begin, _) in self._orphans.items():
            body = b"\x91" + begin  # a list of one
            self._fly(body, []).orphan = recording
            return

    def _land(self, now_s: float) -> None:
        """What the vault said, if it said anything by now."""
        flight = self._flight
        if flight is None or not flight.task.done():
            return
        self._flight = None
        try:
            acks = flight.task.result()
        except Refusal as error:
            self._refused(now_s, flight, error)
            return
        except PbxctlError as error:
            self._away(now_s, error.message)
            if not flight.late:
                self._roll_back(flight.recordings.values())
            return
        metrics.SHIP_SECONDS.observe(now_s - flight.began_s)
        metrics.SHIPPED.labels(self._node).inc(flight.size)
        if self._vault_away:
            _log.warning("%s: the vault answers again", self._node)
        self._vault_away, self._pause_s, self._retry_at_s = "", RETRY_FIRST_S, 0.0
        self._full = ""  # what is still too much is told again
        if flight.orphan:
            self._orphan_answered(flight.orphan, acks)
        elif flight.spooled is not None:
            self._spooled_answered(flight.spooled, acks)
        else:
            self._live_answered(flight, acks)

    def _live_answered(self, flight: Flight, acks: list[Ack]) -> None:
        answered = {ack.recording: ack for ack in acks}
        for recording in flight.recordings.values():
            ack = answered.get(recording.id)
            if ack is not None:
                self._heed(recording, ack)
            if not flight.late and recording.id in self.live:
                recording.roll_back()  # changes nothing where all was taken

    def _heed(self, recording: Recording, ack: Ack) -> None:
        if ack.state is State.REFUSED:
            self._lose(recording, f"the vault refuses it: {ack.reason}")
            return
        if ack.state is State.UNKNOWN:
            recording.begun = False
            if recording.acked:
                self._alarm(f"the vault has lost recording {recording.id}, which it had taken")
            return
        recording.begun = True
        if ack.next < recording.acked:
            self._alarm(
                f"the vault has lost chunks {ack.next} to {recording.acked - 1} of recording "
                f"{recording.id}, which it had answered for"
            )
            recording.acked = max(ack.next, recording.forgotten)
        recording.acked = max(recording.acked, ack.next)
        recording.next = max(recording.next, recording.acked)
        if ack.state is State.ENDED:
            self._done(recording)

    def _spooled_answered(self, number: int, acks: list[Ack]) -> None:
        refused = [ack for ack in acks if ack.state is State.REFUSED]
        for ack in acks:
            if recording := self.live.get(ack.recording):
                self._heed(recording, ack)
        for ack in refused:
            self._alarm(f"the vault refuses recording {ack.recording}: {ack.reason}")
        # its own count, not ours: it may be another vault with the same store
        now_s = asyncio.get_running_loop().time()
        try:
            told = self._spool.settle(number, acks, now_s)
            if told:
                self._alarm(told)
            if told is not None:
                return
        except (OSError, msgspec.DecodeError) as error:
            self._alarm(f"the spool cannot be read: {error}")
        self._away(now_s, "the vault did not take all it was given")

    def _orphan_answered(self, recording: str, acks: list[Ack]) -> None:
        ack = next((ack for ack in acks if ack.recording == recording), None)
        if ack is None:
            return
        begin, reason = self._orphans[recording]
        if ack.state is State.OPEN:
            end = End(recording, ack.next, ack.next * CHUNK, Outcome.PARTIAL, reason)
            body = b"\x92" + begin + wire.encode(end)
            self._fly(body, []).orphan = recording
            return
        metrics.ENDED.labels(self._node, Outcome.PARTIAL).inc()
        del self._orphans[recording]
        self._openings.drop(recording)

    def _refused(self, now_s: float, flight: Flight, error: Refusal) -> None:
        """The request as a whole. It is kept: a person has to look."""
        self._alarm(error.message)
        if flight.spooled is not None and error.status in (400, 413):
            self._spool.set_aside(flight.spooled)  # it would stand in the way for ever
            return
        self._away(now_s, error.message)
        if not flight.late:
            self._roll_back(flight.recordings.values())

    def _away(self, now_s: float, message: str) -> None:
        if not self._vault_away:
            _log.warning("%s: recordings go to the spool: %s", self._node, message)
        self._vault_away = message
        self._retry_at_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_MAX_S)

    def _roll_back(self, recordings: Iterable[Recording]) -> None:
        for recording in list(recordings):
            recording.roll_back()

    def _lose(self, recording: Recording, reason: str) -> None:
        """Nothing more of it can be sealed or is taken; what the vault has stays."""
        self._alarm(f"recording {recording.id}: {reason}")
        metrics.REFUSED.labels(self._node).inc()
        self._stop(recording.memo)
        self._remove(recording)

    def _done(self, recording: Recording) -> None:
        ended = recording.memo.ended
        metrics.ENDED.labels(self._node, ended.outcome if ended else Outcome.PARTIAL).inc()
        self._remove(recording)

    def drop(self, recording: str) -> None:
        """One that the PBX was never told of."""
        if live := self.live.get(recording):
            self._remove(live)

    def _remove(self, recording: Recording) -> None:
        recording.files.remove()
        self.live.pop(recording.id, None)
        self._openings.drop(recording.id)

    def _tidy(self) -> list[str]:
        """In a thread; what is to be told of it."""
        told = []
        if (now_s := time.monotonic()) > self._swept_s + SWEEP_EVERY_S:
            self._swept_s = now_s
            tmpfs.sweep(self._folder, set(self.live))
        crowded = self.place_problem or tmpfs.used_share(self._folder) >= TMPFS_SHARE_MAX
        for recording in list(self.live.values()):
            if recording.empty:
                ended = recording.memo.ended
                if ended and ended.outcome is Outcome.PARTIAL:
                    told.append(f"recording {recording.id} never began: {ended.reason}")
                self._remove(recording)
            elif recording.cut:
                self._orphans[recording.id] = (
                    wire.encode(recording.memo.begin), "its file was cut or begun anew"
                )  # fmt: skip
                recording.files.remove()
                self.live.pop(recording.id)
                told.append(f"recording {recording.id}: its file was cut or begun anew")
            else:
                recording.forget(all_of_it=bool(crowded))
        return told

    def _tell_full(self, why: str) -> None:
        if not self._full:
            self._alarm(f"recordings cannot be kept: {why}")
        self._full = why
        used = tmpfs.used_share(self._folder)
        if used < TMPFS_SHARE_MAX:
            return
        if used > TMPFS_SHARE_BRIM:
            self._alarm("the tmpfs is full to the brim: what is said now on recorded calls is lost")
        self.stop_all(f"the tmpfs is full too, and {why}")

    def stop_all(self, why: str) -> None:
        """Asks the PBX to end them; what there is of them is kept. Repeatable."""
        on = [r for r in list(self.live.values()) if r.memo.ended is None and not r.stopping]
        if on:
            self._alarm(f"{len(on)} recordings are stopped: {why}")
        for recording in on:
            recording.stopping = f"stopped, as nothing could be kept: {why}"
            self._stop(recording.memo)

    def _show(self) -> None:
        metrics.show(
            self._node,
            live=sum(recording.memo.ended is None for recording in self.live.values()),
            spool_bytes=self._spool.bytes,
            vault_up=not self._vault_away,
            unable=bool(self.problem or self.place_problem),
            tmpfs_used=tmpfs.used_share(self._folder),
        )
