"""How long a recording is kept: pure rules."""

from __future__ import annotations

import datetime as dt

DAY_MS = 86_400_000


def keep_until_ms(
    started_ms: int, arrived_ms: int, asked_days: int, default_days: int, max_days: int
) -> int:
    """asked_days: by the rule that made it record, 0 or less for none.

    A node's clock may be wrong or lie: a recording counts from its start, but never from a time
    that lies after its arrival.
    """
    days = min(asked_days if asked_days > 0 else default_days, max_days)
    return min(started_ms, arrived_ms) + days * DAY_MS


def period_of(until_ms: int) -> str:
    """The month in which retention ends, as "2027-03", UTC: what shares a KEK."""
    return f"{dt.datetime.fromtimestamp(until_ms / 1000, dt.UTC):%Y-%m}"


def is_over(period: str, now_ms: int) -> bool:
    """Whether the whole month lies behind us."""
    return period < period_of(now_ms)
