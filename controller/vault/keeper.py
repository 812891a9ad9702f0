"""The keeper: gives each recording its key slot and its row, its body when it ends, and its end.

Three works, each of which can be cut short at any point and is taken up again:
- `collect` opens envelopes of the intake, writes key slots, then rows, then destroys the envelopes.
  A recording with a row has exactly one slot, the one in its row.
- `finish` joins what has ended, and gives up what was silent for too long.
- `expire` erases what is doomed or over: the key slot first, then the signed record, then the body.
All block.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from dataclasses import dataclass

import msgspec
from sqlalchemy.exc import IntegrityError

from controller.errors import PbxctlError, Tampered, VaultError
from controller.records.recording_rows import RecordingRow, RecordingState
from controller.records.recordings import RecordingIndex
from controller.vault import erasure, fields, retention
from controller.vault import header as headers
from controller.vault.bodies import Bodies, Growing
from controller.vault.body import PROLOGUE
from controller.vault.custody import Custody, now_us
from controller.vault.header import Header, Particulars
from controller.vault.intake import Intake, Waiting
from controller.vault.key_slots import Entry
from controller.vault.metrics import BAD, ERASED, GROWING, INTAKE, INTAKE_SECONDS, SILENT
from controller.vault.suites import TAG_BYTES
from controller.vault.wire import End, Outcome

BATCH = 256
#: how the reason of what nobody ordered begins
RETENTION = "retention: "

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """give_up_s: without a word from it, a recording has ended."""

    fleet: str
    retention_days: int
    retention_max_days: int
    give_up_s: float


@dataclass(frozen=True)
class _Opened:
    header: Header
    waiting: Waiting
    data_key: bytes
    said: Particulars
    until_ms: int


class Keeper:
    """For any thread: each work waits for its own kind alone."""

    def __init__(
        self, bodies: Bodies, intake: Intake, custody: Custody, index: RecordingIndex, rules: Rules
    ) -> None:
        self._bodies = bodies
        self._intake = intake
        self._custody = custody
        self._index = index
        self._rules = rules
        self._collecting = threading.Lock()
        self._erasing = threading.Lock()
        #: whether slots may be there whose rows were never written
        self._unsure = True
        self._told: dict[str, str] = {}

    def collect(self) -> int:
        """How many recordings got their slot and row. Raises PbxctlError when keys or SQL fail."""
        done = 0
        with self._collecting:
            waiting = self._intake.waiting()
            for first in range(0, len(waiting), BATCH):
                done += self._collect(waiting[first : first + BATCH])
            self._unsure = False
            self._measure()
        return done

    def _measure(self) -> None:
        waiting = self._intake.waiting()
        first = self._intake.get(waiting[0]) if waiting else None
        INTAKE.set(len(waiting))
        INTAKE_SECONDS.set(max(0.0, time.time() - first.arrived_ms / 1000) if first else 0)
        BAD.set(len(self._intake.bad()))

    def _collect(self, waiting: list[str]) -> int:
        known = self._index.known(waiting)
        for recording in known:
            self._intake.destroy(recording)
        new = [recording for recording in waiting if recording not in known]
        if self._unsure and new:
            self._destroy_stray(set(new))
        opened = [found for recording in new if (found := self._open(recording))]
        if not opened:
            return 0
        entries = [
            Entry(
                found.header.tenant,
                retention.period_of(found.until_ms),
                found.header.recording,
                found.data_key,
            )
            for found in opened
        ]
        self._unsure = True
        slots = self._custody.slots.put(entries, now_us())
        rows = [self._row(found, slot) for found, slot in zip(opened, slots, strict=True)]
        try:
            self._index.add(rows)
        except IntegrityError as error:
            raise VaultError("another keeper writes to the same index") from error
        self._unsure = False
        for found in opened:
            self._intake.destroy(found.header.recording)
        return len(opened)

    def _destroy_stray(self, recordings: set[str]) -> None:
        """Slots that were written before their rows could be: the envelopes are still here."""
        stray = [found for found in self._custody.slots.recordings() if found[1] in recordings]
        for slot, recording in stray:
            self._custody.slots.destroy(slot, recording)

    def _open(self, recording: str) -> _Opened | None:
        """None for an envelope that no key opens: it is set aside, and the operator is told."""
        try:
            waiting = self._intake.get(recording)
            if waiting is None:
                return None
            header = headers.decode(waiting.header)
            private = self._custody.keyring.private_key(headers.envelope_key_id(waiting.envelope))
            data_key, said = headers.open_envelope(private, header, waiting.envelope)
            particulars = headers.decode_particulars(said)
        except (VaultError, msgspec.DecodeError) as error:
            log.error("recording %s: its envelope does not open: %s", recording, error)
            self._intake.set_aside(recording)
            return None
        until_ms = retention.keep_until_ms(
            header.started_us // 1000,
            waiting.arrived_ms,
            particulars.retention_days,
            self._rules.retention_days,
            self._rules.retention_max_days,
        )
        return _Opened(header, waiting, data_key, particulars, until_ms)

    def _row(self, found: _Opened, slot: int) -> RecordingRow:
        header, said = found.header, found.said
        tags_key = self._custody.tags_key()
        return RecordingRow(
            recording=header.recording,
            tenant=header.tenant,
            node=header.node,
            # PostgreSQL has no NUL: one of them would keep everybody's envelopes waiting
            call=said.call.replace("\0", ""),
            rule=said.rule.replace("\0", ""),
            started_ms=header.started_us // 1000,
            rate_hz=header.rate_hz,
            channels=header.channels,
            suite=header.suite,
            header=found.waiting.header,
            slot=slot,
            period=retention.period_of(found.until_ms),
            caller=fields.seal_field(found.data_key, header.recording, "caller", said.caller),
            callee=fields.seal_field(found.data_key, header.recording, "callee", said.callee),
            caller_tag=fields.tag(tags_key, header.tenant, said.caller) if said.caller else None,
            callee_tag=fields.tag(tags_key, header.tenant, said.callee) if said.callee else None,
            keep_until_ms=found.until_ms,
            arrived_ms=found.waiting.arrived_ms,
        )

    def finish(self) -> int:
        """Looks at everything that has no body yet; how many have one now.

        One that cannot be finished does not keep the others from it.
        """
        growing = self._bodies.all_growing()
        done, silent_s = 0, 0.0
        for recording in growing:
            try:
                done += self.finish_one(recording)
                known = self._bodies.growing(recording)
            except PbxctlError as error:
                self._tell(recording, error.message)
            else:
                if known is not None and known.end is None:
                    silent_s = max(silent_s, time.time() - known.heard_s)
        GROWING.set(len(growing) - done)
        SILENT.set(silent_s)
        return done

    def _tell(self, recording: str, problem: str) -> None:
        if self._told.get(recording) != problem:
            log.error("recording %s: %s", recording or "any", problem)
            self._told[recording] = problem

    def finish_one(self, recording: str) -> bool:
        """False while it has not ended, its row is not written yet, or another is just doing it."""
        try:
            return self._finish_one(recording)
        except FileNotFoundError:  # its parts went while they were joined here
            return False

    def _finish_one(self, recording: str) -> bool:
        growing = self._bodies.growing(recording)
        if growing is None or growing.end is None:
            if self._bodies.head(recording) is not None:
                self._bodies.drop_parts(recording)  # an earlier finish was cut short there
                return True
            if growing is None:
                return False  # it is just beginning
            silent_s = time.time() - growing.heard_s
            if silent_s < self._rules.give_up_s:
                return False
            self._give_up(recording, growing, silent_s)
            growing = self._bodies.growing(recording) or growing
        if growing.end is None:
            return False
        if growing.next < growing.end.chunks and self._bodies.head(recording) is None:
            raise Tampered(f"chunk {growing.next} is gone from {self._bodies.store.where}")
        head = self._bodies.finish(recording, growing)
        state = self._index.ended(
            recording,
            RecordingState(head.end.outcome.value),
            reason=head.end.reason,
            plain_bytes=head.end.plain_bytes,
            sealed_bytes=head.sealed_bytes,
            call_ms=head.end.call_ms,
        )
        if state is None:
            return False
        self._bodies.drop_parts(recording)
        if state is RecordingState.ERASED:
            self._bodies.delete(recording)
        self._told.pop(recording, None)
        return True

    def _give_up(self, recording: str, growing: Growing, silent_s: float) -> None:
        """Ends it as what could be saved. With a gap in it nothing is thrown away."""
        chunks = growing.next
        if growing.parts and growing.parts[-1].after != chunks:
            raise Tampered(f"chunk {chunks} is gone from {self._bodies.store.where}")
        plain_bytes = growing.sealed_bytes - PROLOGUE - chunks * TAG_BYTES
        outcome = Outcome.COMPLETE if growing.has_last else Outcome.PARTIAL
        reason = f"nothing was heard of it for {silent_s / 3600:.1f} h"
        log.warning("recording %s ends as %s: %s", recording, outcome, reason)
        self._bodies.put_end(recording, End(recording, chunks, plain_bytes, outcome, reason))

    def expire(self) -> int:
        """Erases what is over, what was doomed before, and the KEKs that nothing needs."""
        now_ms = round(time.time() * 1000)
        done = 0
        while rows := self._index.due(now_ms, BATCH):
            for row in rows:
                if row.state is not RecordingState.ERASING:
                    self._index.doom(row.recording, f"{RETENTION}its time was over")
                self.erase(row.recording)
                done += 1
        self._drop_keks(now_ms)
        return done

    def erase(self, recording: str) -> None:
        """The doomed recording's key, then its record, then its body. Repeatable."""
        with self._erasing:
            row = self._index.get(recording)
            if row.state is not RecordingState.ERASING:
                return
            if row.slot is not None:
                self._custody.slots.destroy(row.slot, recording)
            statement = erasure.Statement(
                fleet=self._rules.fleet,
                tenant=row.tenant,
                node=row.node,
                recording=recording,
                started_ms=row.started_ms,
                header_sha256=hashlib.sha256(row.header).hexdigest(),
                erased_ms=round(time.time() * 1000),
                reason=row.reason,
            )
            self._index.erased(erasure.sign(self._custody.signing_key(), statement))
            over = row.reason.startswith(RETENTION)
            ERASED.labels("retention" if over else "order").inc()
        try:
            if self._bodies.head(recording) is not None:
                self._bodies.delete(recording)
            # One that still grows is deleted at its end: its agent must not be asked for all of it
            # again.
        except PbxctlError as error:  # unreadable already; `vault check` finds what is left
            self._tell(recording, f"is erased, and its body could not be deleted: {error.message}")

    def _drop_keks(self, now_ms: int) -> None:
        with self._collecting:  # nothing comes to need one between the look and the end
            used = self._index.keys_by_period()
            keyring, slots = self._custody.keyring, self._custody.slots
            if sum(used.values()) < slots.used:
                # An index that was lost or put back knows of no hold: then nothing goes by itself.
                self._tell("", f"{slots.used} key slots, {sum(used.values())} in the index")
                return
            for tenant, period in {(kek.tenant, kek.period) for kek in keyring.keks().values()}:
                if retention.is_over(period, now_ms) and (tenant, period) not in used:
                    count = keyring.destroy_keks(tenant, period)
                    log.info("%d keys of %s for %s are destroyed", count, tenant, period)
