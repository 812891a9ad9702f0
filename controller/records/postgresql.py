"""A connection to PostgreSQL that waits for each answer no longer than a few seconds.

libpq limits only connecting, and statement_timeout is kept by the server: one that is frozen, or
whose machine is gone, would hold a thread for ever.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

#: of each server that the url names; libpq takes 2 at least
CONNECT_S = 2
ANSWER_S = 3.0
#: new tables may have to be filled
UPGRADE_S = 600.0
_LOOK_S = 0.1

T = TypeVar("T")


class Connection(psycopg.Connection[Any]):
    """Raises OperationalError when the server is silent for answer_s, and is closed then."""

    answer_s = ANSWER_S

    def wait(self, gen: PQGen[T], interval: float = _LOOK_S, timeout: float | None = None) -> T:
        limit_s = self.answer_s if timeout is None else timeout
        began_s = time.monotonic()
        try:
            return super().wait(gen, interval, limit_s)
        except psycopg.OperationalError as error:
            if time.monotonic() - began_s < limit_s:
                raise
            # In the middle of an answer nothing else can be asked; closed, it leaves the pool.
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {limit_s:g} s") from error
