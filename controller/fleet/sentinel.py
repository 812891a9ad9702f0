"""The fleet's Redis by its Sentinels: whichever server is the primary now.

A connection that breaks, times out or is told "read only" is dropped, and the next one asks the
Sentinels again. Nothing is retried here: that is for whoever asked (functions.py).
"""

from __future__ import annotations

from typing import Any

import redis.asyncio as redis
from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection

from controller.config import split_address
from controller.fleet.tls_connection import TlsConnection
from controller.pki.contexts import Identity

#: of one Sentinel; the next is asked then
ASK_TIMEOUT_S = 0.3


class _TlsToPrimary(SentinelManagedConnection, TlsConnection):
    pass


def primary(
    name: str, sentinels: tuple[str, ...], identity: Identity | None, settings: dict[str, Any]
) -> redis.Redis:
    """name: of the primary at the Sentinels. settings: of redis.Redis, for the primary.

    Sentinels are asked by TLS where the primary is; they know no users of ours.
    """
    asks: dict[str, Any] = {
        "socket_timeout": ASK_TIMEOUT_S,
        "socket_connect_timeout": ASK_TIMEOUT_S,
        "retry": settings["retry"],
        "retry_on_error": [],
    }
    more: dict[str, Any] = {}
    if identity:
        more = {"connection_class": _TlsToPrimary, "identity": identity}
    known = Sentinel([split_address(address) for address in sentinels], sentinel_kwargs=asks)
    if identity:
        for asked in known.sentinels:
            asked.connection_pool.connection_class = TlsConnection
            asked.connection_pool.connection_kwargs["identity"] = identity
    client: redis.Redis = known.master_for(name, **settings, **more)
    return client
