"""The index of recordings in SQL: what is kept, until when, and why. Keys are not in it.

A recording is erased in three steps, so that neither a hold nor a crash can come between: `doom`
takes it out of everybody's reach unless a hold stands, then its key slot is destroyed, then
`erased` keeps the signed record of that. What is doomed and not erased is erased at the next round.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, and_, case, func, insert, or_, select, update

from controller.errors import NotFound, Refused
from controller.records.database import Database
from controller.records.recording_rows import (
    ENDED,
    READABLE,
    Counts,
    Erasure,
    Hold,
    Kept,
    RecordingRow,
    RecordingState,
    Wanted,
)
from controller.records.tables import recording_erasures as erasures
from controller.records.tables import recording_holds as holds
from controller.records.tables import recordings

_T = recordings.c


class RecordingIndex:
    """Blocks. Raises RecordsUnreachable from any method."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, wanted: Collection[str]) -> set[str]:
        """Those of them that have a row."""
        with self._database.transaction() as sql:
            rows = sql.execute(select(_T.recording).where(_T.recording.in_(list(wanted))))
            return {row.recording for row in rows}

    def add(self, rows: Sequence[RecordingRow]) -> None:
        """All or none. Raises IntegrityError when one of them is there already."""
        with self._database.transaction() as sql:
            sql.execute(insert(recordings), [msgspec.structs.asdict(row) for row in rows])

    def get(self, recording: str) -> RecordingRow:
        """Raises NotFound."""
        with self._database.transaction() as sql:
            row = sql.execute(select(recordings).where(_T.recording == recording)).one_or_none()
        if row is None:
            raise NotFound(
                f"there is no recording {recording[:64]!r}", hint="pbxctl recordings list"
            )
        return _row(row)

    def find(self, wanted: Wanted, limit: int) -> list[RecordingRow]:
        """The latest first."""
        asked = (
            select(recordings)
            .where(*_where(wanted))
            .order_by(_T.started_ms.desc(), _T.recording.desc())
            .limit(limit)
        )
        with self._database.transaction() as sql:
            return [_row(row) for row in sql.execute(asked)]

    def ended(
        self,
        recording: str,
        state: RecordingState,
        *,
        reason: str,
        plain_bytes: int,
        sealed_bytes: int,
        call_ms: int | None,
    ) -> RecordingState | None:
        """Its state then, another one where it was erased meanwhile; None without a row."""
        with self._database.transaction() as sql:
            sql.execute(
                update(recordings)
                .where(_T.recording == recording, _T.state == RecordingState.GROWING.value)
                .values(
                    state=state.value,
                    reason=reason,
                    plain_bytes=plain_bytes,
                    sealed_bytes=sealed_bytes,
                    call_ms=call_ms,
                    ended_ms=_now_ms(),
                )
            )
            now = sql.execute(
                select(_T.state).where(_T.recording == recording)
            ).scalar_one_or_none()
        return RecordingState(now) if now else None

    def hold(self, recording: str, reason: str, who: str) -> None:
        """Raises NotFound, Refused when it is being erased or is erased."""
        self.get(recording)
        with self._database.transaction() as sql:
            # The row first: a hold and an erasure meet here, and one of them is too late.
            raised = sql.execute(
                update(recordings)
                .where(_T.recording == recording, _T.state.in_(READABLE))
                .values(holds=_T.holds + 1)
            )
            if not raised.rowcount:
                raise Refused(f"{recording} is erased; nothing is left to hold")
            sql.execute(
                insert(holds).values(
                    recording=recording,
                    reason=reason,
                    who=who,
                    placed_ms=_now_ms(),
                    lifted_ms=0,
                    lifted_by="",
                )
            )

    def lift(self, recording: str, who: str) -> int:
        """Lifts every hold on it; how many stood. Raises NotFound."""
        self.get(recording)
        with self._database.transaction() as sql:
            sql.execute(update(recordings).where(_T.recording == recording).values(holds=0))
            lifted = sql.execute(
                update(holds)
                .where(holds.c.recording == recording, holds.c.lifted_ms == 0)
                .values(lifted_ms=_now_ms(), lifted_by=who)
            )
        return int(lifted.rowcount)

    def holds(self, recording: str) -> list[Hold]:
        """The first first."""
        asked = select(holds).where(holds.c.recording == recording).order_by(holds.c.id)
        with self._database.transaction() as sql:
            return [
                Hold(row.reason, row.who, row.placed_ms, row.lifted_ms, row.lifted_by)
                for row in sql.execute(asked)
            ]

    def due(self, now_ms: int, limit: int) -> list[RecordingRow]:
        """Those whose time is over and that nobody holds, and those doomed before.

        None that still grows: the keeper ends it first.
        """
        over = and_(_T.state.in_(ENDED), _T.keep_until_ms <= now_ms, _T.holds == 0)
        doomed = _T.state == RecordingState.ERASING.value
        asked = select(recordings).where(or_(over, doomed)).order_by(_T.keep_until_ms).limit(limit)
        with self._database.transaction() as sql:
            return [_row(row) for row in sql.execute(asked)]

    def doom(self, recording: str, reason: str) -> RecordingRow:
        """Takes it out of reach, to be erased. Raises NotFound, Refused while a hold stands.

        reason: goes into the record. One that is doomed already keeps its own.
        """
        with self._database.transaction() as sql:
            sql.execute(
                update(recordings)
                .where(_T.recording == recording, _T.holds == 0, _T.state.in_(READABLE))
                .values(state=RecordingState.ERASING.value, reason=reason)
            )
        row = self.get(recording)
        if row.state in READABLE:
            raise Refused(
                f"{recording} is under a legal hold",
                hint=f"pbxctl recordings hold {recording} --lift, once it may go",
            )
        return row

    def erased(self, erasure: Erasure) -> None:
        """The end of it: no personal data stays. Repeatable; the first record stands."""
        with self._database.transaction() as sql:
            there = sql.execute(
                select(erasures.c.recording).where(erasures.c.recording == erasure.recording)
            ).one_or_none()
            if there is None:
                sql.execute(insert(erasures).values(msgspec.structs.asdict(erasure)))
            sql.execute(
                update(recordings)
                .where(_T.recording == erasure.recording)
                .values(
                    state=RecordingState.ERASED.value,
                    slot=None,
                    call="",
                    caller=None,
                    callee=None,
                    caller_tag=None,
                    callee_tag=None,
                )
            )

    def erasure(self, recording: str) -> Erasure | None:
        with self._database.transaction() as sql:
            row = sql.execute(
                select(erasures).where(erasures.c.recording == recording)
            ).one_or_none()
        return Erasure(row.recording, row.at_ms, row.statement, row.signature) if row else None

    def keys_by_period(self) -> dict[tuple[str, str], int]:
        """How many recordings have a key, by (tenant, period)."""
        asked = (
            select(_T.tenant, _T.period, func.count().label("how_many"))
            .where(_T.slot.is_not(None))
            .group_by(_T.tenant, _T.period)
        )
        with self._database.transaction() as sql:
            return {(row.tenant, row.period): row.how_many for row in sql.execute(asked)}

    def count(self, now_ms: int) -> Counts:
        over = and_(_T.state.in_(ENDED), _T.keep_until_ms <= now_ms, _T.holds == 0)
        with self._database.transaction() as sql:
            states = sql.execute(
                select(_T.state, func.count().label("how_many")).group_by(_T.state)
            ).all()
            found = [
                sql.execute(select(func.count()).where(what)).scalar_one()
                for what in (_T.holds > 0, over, _T.lost_ms > 0)
            ]
        return Counts({row.state: row.how_many for row in states}, *found)

    def kept(self, now_ms: int) -> list[Kept]:
        """What is kept and why, summed up by tenant and rule."""
        held = _T.holds > 0
        asked = (
            select(
                _T.tenant,
                _T.rule,
                func.count().label("recordings"),
                func.sum(_T.sealed_bytes).label("sealed_bytes"),
                func.sum(_as_int(held)).label("held"),
                func.sum(_as_int(and_(_T.holds == 0, _T.keep_until_ms <= now_ms))).label("overdue"),
                func.min(_T.started_ms).label("oldest_ms"),
                func.max(_T.keep_until_ms).label("last_until_ms"),
            )
            .where(_T.state.in_(READABLE))
            .group_by(_T.tenant, _T.rule)
            .order_by(_T.tenant, _T.rule)
        )
        with self._database.transaction() as sql:
            return [
                Kept(
                    row.tenant,
                    row.rule,
                    int(row.recordings),
                    int(row.sealed_bytes),
                    int(row.held),
                    int(row.overdue),
                    row.oldest_ms,
                    row.last_until_ms,
                )
                for row in sql.execute(asked)
            ]

    def mark_lost(self, found: Iterable[tuple[str, bool]]) -> None:
        """Notes for each recording whether a check found its body lost."""
        now_ms = _now_ms()
        with self._database.transaction() as sql:
            for recording, lost in found:
                changed = _T.lost_ms == 0 if lost else _T.lost_ms != 0
                sql.execute(
                    update(recordings)
                    .where(_T.recording == recording, changed)
                    .values(lost_ms=now_ms if lost else 0)
                )


def _where(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [
        column == value
        for column, value in (
            (_T.call, wanted.call),
            (_T.node, wanted.node),
            (_T.tenant, wanted.tenant),
            (_T.rule, wanted.rule),
        )
        if value
    ]
    if wanted.tags:
        found.append(or_(_T.caller_tag.in_(wanted.tags), _T.callee_tag.in_(wanted.tags)))
    if wanted.from_ms:
        found.append(_T.started_ms >= wanted.from_ms)
    if wanted.until_ms:
        found.append(_T.started_ms < wanted.until_ms)
    if wanted.states:
        found.append(_T.state.in_([state.value for state in wanted.states]))
    if wanted.held:
        found.append(_T.holds > 0)
    if wanted.before:
        started_ms, recording = wanted.before
        earlier = and_(_T.started_ms == started_ms, _T.recording < recording)
        found.append(or_(_T.started_ms < started_ms, earlier))
    return found


def _as_int(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return case((condition, 1), else_=0)


def _row(row: Row[Any]) -> RecordingRow:
    # SQLAlchemy's names are a subclass of str, which msgspec does not take for keys.
    return msgspec.convert({str(name): value for name, value in row._mapping.items()}, RecordingRow)


def _now_ms() -> int:
    return round(time.time() * 1000)
