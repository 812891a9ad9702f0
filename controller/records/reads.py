"""The log of reads: who, what, when, from where. A row is there before the first byte goes out."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Row, insert, select

from controller.records.database import Database
from controller.records.recording_rows import Read
from controller.records.tables import recording_reads as reads


class ReadingLog:
    """Blocks. Raises RecordsUnreachable: then nothing may be read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(
        self, who: str, roles: str, address: str, action: str, recording: str, detail: str
    ) -> None:
        with self._database.transaction() as sql:
            sql.execute(
                insert(reads).values(
                    at_ms=round(time.time() * 1000),
                    who=who[:128],
                    roles=roles[:256],
                    address=address[:64],
                    action=action,
                    recording=recording[:32],
                    detail=detail,
                )
            )

    def find(self, *, recording: str = "", who: str = "", limit: int) -> list[Read]:
        """The latest first."""
        asked = select(reads).order_by(reads.c.id.desc()).limit(limit)
        if recording:
            asked = asked.where(reads.c.recording == recording)
        if who:
            asked = asked.where(reads.c.who == who)
        with self._database.transaction() as sql:
            return [_read(row) for row in sql.execute(asked)]


def _read(row: Row[Any]) -> Read:
    return Read(
        at_ms=row.at_ms,
        who=row.who,
        roles=row.roles,
        address=row.address,
        action=row.action,
        recording=row.recording,
        detail=row.detail,
    )
