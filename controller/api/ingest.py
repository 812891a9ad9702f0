"""What agents ask of a vault: to take sealed recordings, and for the key to seal them to.

An agent shows its node's certificate of the authority `sip`, and the name in it is all that decides
whose recordings it may write.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from controller.api.border import border, error_reply
from controller.api.who import caller_of, common_name
from controller.errors import CommandRefused, DeadlineExceeded, StoreUnreachable, UsageError
from controller.vault import wire
from controller.vault.ingest import Ingest
from controller.vault.keys.published import Published
from controller.vault.metrics import FAILED, INGEST_SECONDS

BODY_WAIT_S = 60.0
#: of one node at a time; more wait, so that no node can fill the memory
_AT_ONCE = 2
_THREADS = 4


def make_app(
    ingest: Ingest, nodes: frozenset[str], keys: Callable[[], Published]
) -> web.Application:
    """keys: to seal to; blocks, and raises PbxctlError while there are none."""
    app = web.Application(
        middlewares=[border("vault", journalled=False)], client_max_size=wire.REQUEST_MAX_BYTES
    )
    desk = _Desk(ingest, nodes, keys)
    app.add_routes([web.post("/v1/ingest", desk.take), web.get("/v1/ingest", desk.key)])
    app.on_cleanup.append(desk.close)
    return app


class _Desk:
    def __init__(
        self, ingest: Ingest, nodes: frozenset[str], keys: Callable[[], Published]
    ) -> None:
        self._ingest = ingest
        self._nodes = nodes
        self._keys = keys
        # Apart from those that read for people: a long export must not keep agents waiting.
        self._threads = ThreadPoolExecutor(_THREADS, "ingest-request")
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_AT_ONCE)
        )

    async def close(self, _: web.Application) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    async def take(self, request: web.Request) -> web.Response:
        node = self._node(request)
        async with self._turns[node]:
            try:
                async with asyncio.timeout(BODY_WAIT_S):
                    body = await request.read()
            except web.HTTPRequestEntityTooLarge:
                reply = error_reply(UsageError(f"over {wire.REQUEST_MAX_BYTES >> 20} MiB at once"))
                reply.set_status(413)
                return reply
            except TimeoutError as error:
                raise DeadlineExceeded(f"the request did not come in {BODY_WAIT_S:g} s") from error
            with INGEST_SECONDS.time():
                frames = wire.frames(body)
                loop = asyncio.get_running_loop()
                try:
                    acks = await loop.run_in_executor(
                        self._threads, self._ingest.take, node, frames
                    )
                except StoreUnreachable:
                    FAILED.inc()
                    raise
        return web.Response(body=wire.encode(acks), content_type="application/msgpack")

    async def key(self, request: web.Request) -> web.Response:
        self._node(request)
        current = (await asyncio.to_thread(self._keys)).key()
        answer = wire.encode(wire.PublicKey(current.id, current.key))
        return web.Response(body=answer, content_type="application/msgpack")

    def _node(self, request: web.Request) -> str:
        """Edges and our own prober have certificates of that authority too, and record nothing."""
        node = common_name(request)
        if node not in self._nodes:
            raise CommandRefused(
                f"{caller_of(request)} is no node", hint="an agent shows sip/NODE of pki.folder"
            )
        return node
