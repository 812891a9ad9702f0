"""TLS to Redis with the role's certificate."""

from __future__ import annotations

from typing import Any

import redis.asyncio as redis

from controller.pki.contexts import Identity


class TlsConnection(redis.SSLConnection):
    """Shows the certificate as it is when the connection is made, renewed or not."""

    def __init__(self, *, identity: Identity, **settings: Any) -> None:
        super().__init__(**settings)
        self._identity = identity
        self.ssl_context.context = identity.context

    async def connect(self) -> None:
        self._identity.refresh()
        await super().connect()  # type: ignore[no-untyped-call]
