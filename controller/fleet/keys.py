"""Names in Redis. A fleet's keys share one hash tag: a fleet is the unit of sharding."""

from __future__ import annotations

import os
import secrets
import socket


def prefix(fleet: str) -> str:
    """KEYS[1] of every function of lua/redis/."""
    return f"pbx:{{{fleet}}}"


def new_owner() -> str:
    """A name for this process in leases: where it runs, and unlike any that ran before it."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
