"""Looks for what was lost after it was stored: bodies, parts, key slots. Blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from controller.errors import PbxctlError, StoreUnreachable
from controller.records.recording_rows import READABLE, RecordingRow, RecordingState, Wanted
from controller.records.recordings import RecordingIndex
from controller.vault.bodies import Bodies
from controller.vault.custody import Custody
from controller.vault.found import Found
from controller.vault.metrics import LOST

_PAGE = 500
_SHOWN = 100


def check(
    bodies: Bodies,
    custody: Custody,
    index: RecordingIndex,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Found:
    """Reads every body once and compares it with what was stored; opens every key slot.

    told: how many recordings it has looked at, of how many, after each.

    Raises StoreUnreachable, RecordsUnreachable when store or index do not answer.
    """
    lost: dict[str, str] = {}
    checked = left_over = looked_at = 0
    of = sum(index.count(round(time.time() * 1000)).states.values())
    for rows in _pages(index):
        marks = []
        for row in rows:
            looked_at += 1
            told(looked_at, max(of, looked_at))
            if row.state is RecordingState.ERASED:
                left_over += _clear(bodies, row)
                continue
            problem = _problem(bodies, custody, row)
            marks.append((row.recording, bool(problem)))
            if problem:
                lost[row.recording] = problem
        index.mark_lost(marks)
        checked += len(marks)
    LOST.set(len(lost))
    shown = dict(list(lost.items())[:_SHOWN])
    keyed = sum(index.keys_by_period().values())
    return Found(checked, shown, len(lost), max(0, custody.slots.used - keyed), left_over)


def _pages(index: RecordingIndex) -> Iterator[list[RecordingRow]]:
    before: tuple[int, str] | None = None
    states = (*READABLE, RecordingState.ERASED)
    while rows := index.find(Wanted(states=states, before=before), _PAGE):
        yield rows
        before = rows[-1].started_ms, rows[-1].recording


def _problem(bodies: Bodies, custody: Custody, row: RecordingRow) -> str:
    try:
        if row.slot is not None:
            custody.slots.data_key(row.slot, row.tenant, row.recording)
        head = bodies.head(row.recording)
        if head is not None:
            bodies.check_body(row.recording, head)
        elif (growing := bodies.growing(row.recording)) is None:
            return f"its body is gone from {bodies.store.where}"
        elif growing.parts and growing.parts[-1].after != growing.next:
            return f"chunk {growing.next} is gone from {bodies.store.where}"
    except StoreUnreachable:
        raise
    except PbxctlError as error:
        return error.message
    return ""


def _clear(bodies: Bodies, row: RecordingRow) -> int:
    try:
        bodies.open_body(row.recording)
    except FileNotFoundError:
        return 0
    bodies.delete(row.recording)
    return 1
