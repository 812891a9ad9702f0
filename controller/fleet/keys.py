"""Names in Redis. A fleet's keys share one hash tag: a fleet is the unit of sharding."""

from __future__ import annotations


def prefix(fleet: str) -> str:
    """KEYS[1] of every function of lua/redis/."""
    return f"pbx:{{{fleet}}}"
