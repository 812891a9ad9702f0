"""The one door to the fleet's picture in Redis: each method is one function of lua/redis/.

Retries: none by the client library. A lost reply raises FleetUnreachable, and the caller may ask
again: every function is repeatable by its call id, epoch or command id (promise 2). Only a
missing library is mended here, by loading it: a function that was not found did not run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from controller.config import Config, read_secret
from controller.errors import CommandRefused, FleetUnreachable, StaleEpoch
from controller.fleet.acl import user_of
from controller.fleet.keys import prefix
from controller.fleet.library import LIBRARY, library, replace_library
from controller.fleet.reading import ALARM, CALL, NODES, read, read_each
from controller.fleet.sentinel import primary
from controller.fleet.state import (
    Alarm,
    Attestation,
    Beat,
    CallRecord,
    Command,
    Lease,
    NodeView,
    Presence,
)
from controller.fleet.tls_connection import TlsConnection
from controller.model import (
    CallAnswered,
    CallEnded,
    CallPlaced,
    CallStarted,
    CallTruth,
    NodeEvent,
    Placed,
    Rejected,
    Verdict,
)
from controller.pki import contexts

T = TypeVar("T")
TIMEOUT_S = 1.0
# Redis does nothing else meanwhile, some 8 µs an event, and edges give it 150 ms.
EVENTS_AT_ONCE = 2000
#: how the ids of commands begin that record a call (lua/redis/45_commands.lua)
RECORDING = "rec-"
_HINT = "check that Redis runs and that redis.url names it: pbxctl doctor"

_pack = msgspec.msgpack.encode


def connect(config: Config, role: str, *, timeout_s: float = TIMEOUT_S) -> redis.Redis:
    """A client for the fleet's Redis. Nothing is sent before its first use.

    role: of acl.RIGHTS; whose user and certificate it is, where the config has such.
    Raises ConfigError when a password or certificate is missing.
    """
    url = config.redis.url or f"unix://{config.state_path / 'redis.sock'}"
    user = password = None
    if config.redis.users:
        user, password = user_of(role), read_secret(config.path(config.redis.users) / role)
    elif config.redis.password_file:
        password = read_secret(config.path(config.redis.password_file))
    settings: dict[str, Any] = {
        "username": user,
        "password": password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
    }
    identity = contexts.client(config, role) if url.startswith("rediss://") else None
    if config.redis.sentinels:
        parts = urlsplit(url)
        settings["db"] = int(parts.path.strip("/") or 0)
        return primary(parts.hostname or "", config.redis.sentinels, identity, settings)
    client = redis.Redis.from_url(url, **settings)
    if identity:
        pool = client.connection_pool
        pool.connection_class = TlsConnection
        pool.connection_kwargs["identity"] = identity
    return client


def _values(listed: Any) -> list[Any]:
    """Of one library in FUNCTION LIST: pairs in a list (RESP2) or a map (RESP3)."""
    return list(listed.values()) if isinstance(listed, dict) else list(listed)


def _packed_event(event: NodeEvent) -> dict[str, Any] | None:
    match event:
        case CallStarted():
            return {"k": "started"} | _packed_call(event)
        case CallPlaced():
            return {"k": "placed", "id": event.pbx_id, "placement": event.placement}
        case CallAnswered():
            return {"k": "answered", "id": event.pbx_id}
        case CallEnded():
            return {"k": "ended", "id": event.pbx_id, "cause": event.cause}
    return None


def _packed_call(call: CallStarted | CallTruth) -> dict[str, Any]:
    return {
        "id": call.pbx_id,
        "placement": call.placement,
        "from": call.caller,
        "to": call.callee,
    }


async def _heeding(work: Awaitable[T]) -> T:
    """Awaits `work` without losing a cancellation that comes meanwhile.

    redis-py sends under asyncio.wait_for, which before Python 3.12 drops a cancellation that meets
    the end of the send (CPython issue 81839): a cancelled loop would then run on for ever. A
    cancellation from before is not heeded again, so that a cancelled task can still clean up.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        return await work
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


async def _answer(work: Awaitable[T]) -> T:
    """What Redis answers, without losing a cancellation; FleetUnreachable for any error."""
    try:
        return await _heeding(work)
    except (RedisError, OSError) as error:
        raise FleetUnreachable(f"Redis does not answer: {error}", hint=_HINT) from error


class Fleet:
    """A fleet's picture. Safe to share between tasks of one loop.

    Raises FleetUnreachable when Redis does not answer, StaleEpoch when the lease went to another.
    """

    def __init__(self, client: redis.Redis, name: str) -> None:
        self.client = client
        self.name = name
        self._prefix = prefix(name)
        self._loading = asyncio.Lock()

    async def close(self) -> None:
        await self.client.aclose()

    async def call_function(self, function: str, *args: str | bytes | int | float) -> Any:
        """One function of the library, for the nouns that have a door of their own (phones.py)."""
        try:
            return await self._once(function, *args)
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise _translated(error) from error
        await self.load()
        try:
            return await self._once(function, *args)
        except ResponseError as error:
            raise _translated(error) from error

    async def _once(self, function: str, *args: str | bytes | int | float) -> Any:
        try:
            return await _heeding(self.client.fcall(function, 1, self._prefix, *args))
        except ResponseError:
            raise
        except (RedisError, OSError) as error:
            raise FleetUnreachable(f"Redis does not answer: {error}", hint=_HINT) from error

    async def load(self) -> None:
        """Puts this version's library into Redis; others of the same fleet use it at once."""
        async with self._loading:
            try:
                await _heeding(replace_library(self.client, self._prefix))
            except NoPermissionError as error:
                raise FleetUnreachable(
                    "Redis has no functions yet, and only the steward may load them",
                    hint="start one: pbxctl up or pbxctl run steward",
                ) from error
            except (RedisError, OSError) as error:
                raise FleetUnreachable(f"Redis does not take the functions: {error}") from error

    async def load_if_other(self) -> bool:
        """Puts this version's library in the place of another one's; whether there was one."""
        try:
            libraries = await _answer(self.client.function_list(LIBRARY, withcode=True))
        except FleetUnreachable as error:
            if not isinstance(error.__cause__, NoPermissionError):
                raise
            libraries = []  # users.acl was rendered before stewards had this right
        if any(library() in _values(listed) for listed in libraries):
            return False
        await self.load()
        return True

    async def run_id(self) -> str:
        """Names the running redis-server: another one means that data may be lost."""
        info = await _answer(self.client.info("server"))
        return str(info["run_id"])

    async def set_policy(self, policy: dict[str, Any], *, replace: bool = True) -> None:
        """Sets what placement goes by; with replace=False only where there is none yet."""
        await self.call_function("policy", _pack(policy), int(replace))

    async def route(
        self,
        call_id: str,
        region: str,
        caller: str,
        callee: str,
        priority: str = "",
        failed: str = "",
        *,
        dry: bool = False,
    ) -> Verdict:
        """Places one call, or says why not; see `route` in lua/redis/20_route.lua."""
        reply = await self.call_function(
            "route_dry" if dry else "route", call_id, region, caller, callee, priority, failed
        )
        verdict, node, address, placement, cause, after, service, reason = (
            part.decode("utf-8", "replace") for part in reply
        )
        if verdict == "place":
            return Placed(node, address, placement, reason, service)
        return Rejected(int(cause), int(after), reason, verdict == "blind")

    async def nodes(self) -> list[NodeView]:
        return read(NODES, await self.call_function("nodes"))

    async def call(self, call_id: str) -> CallRecord | None:
        """A call's record, by call id or placement, up to 15 minutes after its end."""
        raw = await self.call_function("call", call_id)
        return read(CALL, raw) if raw else None

    async def calls(self, node: str, limit: int = 1000) -> list[CallRecord]:
        return read_each(CALL, await self.call_function("calls", node, limit))

    async def stats(self) -> dict[str, int]:
        """Counters since Redis has its data: place:REGION, spill:REGION, reject:WHY."""
        flat = await self.call_function("stats")
        return {k.decode(): int(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}

    async def read_hash(self, key: str) -> dict[bytes, bytes]:
        """A hash of the fleet, key without the prefix."""
        raw: dict[Any, Any] = await _answer(self.client.hgetall(f"{self._prefix}:{key}"))
        return raw

    async def write_hash(self, key: str, field: str, value: bytes) -> None:
        await _answer(self.client.hset(f"{self._prefix}:{key}", field, value))

    async def presence(self) -> Presence:
        """Who works for the fleet right now, and what Redis says of itself."""
        pipe = self.client.pipeline(transaction=False)
        pipe.time()
        pipe.hmget(f"{self._prefix}:lease:@steward", "owner", "ends")
        pipe.zrange(f"{self._prefix}:drivers", 0, -1, withscores=True)
        (s, us), (owner, ends), drivers = await _answer(pipe.execute())
        now_ms = s * 1000 + us // 1000
        leads = owner is not None and int(ends or 0) > now_ms
        alive = tuple(sorted(name.decode() for name, until in drivers if until > now_ms))
        return Presence(now_ms, owner.decode() if leads else "", alive)

    async def claim(self, owner: str, ttl_ms: int, nodes: Iterable[str]) -> list[Lease]:
        """Renews and takes leases up to the owner's even share; what is absent is not held."""
        flat = [part.decode() for part in await self.call_function("claim", owner, ttl_ms, *nodes)]
        return [Lease(*pair) for pair in zip(flat[::2], flat[1::2], strict=True)]

    async def release(self, owner: str, nodes: Iterable[str]) -> int:
        """Gives leases back; how many other drivers can take them. Until one does, they count."""
        others: int = await self.call_function("release", owner, *nodes)
        return others

    async def lead(self, what: str, owner: str, ttl_ms: int) -> str | None:
        """Takes or renews the leader's lease; None while another leads."""
        epoch = await self.call_function("lead", what, owner, ttl_ms)
        return epoch.decode() if epoch else None

    async def register(self, lease: Lease, facts: dict[str, Any]) -> None:
        await self.call_function("register", lease.node, lease.epoch, _pack(facts))

    async def forget(self, nodes: Iterable[str]) -> None:
        await self.call_function("forget", *nodes)

    async def beat(self, lease: Lease, beat: Beat) -> tuple[str, int]:
        """Tells a node's health; answers what the operator wants and how many commands
        wait or run."""
        want, waiting = await self.call_function("beat", lease.node, lease.epoch, _pack(beat))
        return want.decode(), waiting

    async def events(self, lease: Lease, events: Sequence[NodeEvent]) -> None:
        packed = [p for p in map(_packed_event, events) if p]
        for at in range(0, len(packed), EVENTS_AT_ONCE):
            some = _pack(packed[at : at + EVENTS_AT_ONCE])
            await self.call_function("events", lease.node, lease.epoch, some)

    async def reconcile(self, lease: Lease, truth: Iterable[CallTruth]) -> tuple[int, int]:
        """Makes the live set equal the node's own list; answers how many it added, removed."""
        packed = [_packed_call(c) | {"answered": c.answered} for c in truth]
        added, removed = await self.call_function(
            "reconcile", lease.node, lease.epoch, _pack(packed)
        )
        return added, removed

    async def attest(
        self, lease: Lease, pbx_id: str, told: Attestation, look_at: Sequence[int] = ()
    ) -> bool:
        """Writes what a live call's media is; False when the fleet has no such call.

        look_at: RTP ports of the node at which its agent is asked to look.
        """
        written = await self.call_function(
            "attest", lease.node, lease.epoch, pbx_id, _pack(told), *look_at
        )
        return bool(written)

    async def looks(self, node: str) -> list[tuple[str, int]]:
        """Takes what the node's agent is asked to look at: call key and RTP port, a few."""
        flat = await self.call_function("looks", node)
        return [(key.decode(), int(port)) for key, port in zip(flat[::2], flat[1::2], strict=True)]

    async def looked(self, node: str, key: str, wire: str, reason: str, port: int) -> None:
        """What the agent saw of the call: clear, encrypted or not checked. clear is an alarm."""
        await self.call_function("looked", node, key, wire, reason, port)

    async def seen(self, lease: Lease) -> list[tuple[str, int]]:
        """Takes what the node's agent saw in clear: pbx_id and RTP port, a few."""
        flat = await self.call_function("seen", lease.node, lease.epoch)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return [(pbx_id.decode(), int(port or 0)) for port, pbx_id in pairs]

    async def alarms(self, limit: int = 100) -> list[Alarm]:
        """The last alarms, newest first; some hundreds are kept."""
        return read_each(ALARM, await self.call_function("alarms", limit))

    async def want(self, node: str, state: str) -> str | None:
        """Sets what the operator wants of a node; answers the former, None if unknown."""
        before = await self.call_function("want", node, state)
        return before.decode() if before else None

    async def command(self, node: str, command_id: str, body: bytes, repeatable: bool) -> None:
        await self.call_function("command", node, command_id, body, int(repeatable))

    async def cancel(self, node: str, command_id: str) -> bool:
        """Takes a command back that no driver has begun. False: one has, or it is done."""
        kind = "reccommands" if command_id.startswith(RECORDING) else "commands"
        key = f"{self._prefix}:{kind}:{node}"
        return bool(await _answer(self.client.lrem(key, 0, command_id)))

    async def take(self, lease: Lease) -> Command | None:
        reply = await self.call_function("take", lease.node, lease.epoch)
        return Command(reply[0].decode(), reply[1]) if reply else None

    async def done(self, lease: Lease, command_id: str, result: bytes) -> None:
        await self.call_function("done", lease.node, lease.epoch, command_id, result)

    async def result(self, command_id: str, within_s: float) -> bytes | None:
        """A command's result (JSON), or None when there is none in time. Reads it once."""
        deadline = asyncio.get_running_loop().time() + within_s
        key = f"{self._prefix}:result:{command_id}"
        while True:
            raw: Any = await _answer(self.client.lpop(key))
            if isinstance(raw, bytes) or asyncio.get_running_loop().time() >= deadline:
                return raw if isinstance(raw, bytes) else None
            await asyncio.sleep(0.05)

    async def host_report(self, node: str, cpu: float, load1: float) -> None:
        """An agent's word on its host. cpu: busy share, 0 to 1."""
        await self.call_function("host", node, f"{cpu:.4f}", f"{load1:.2f}")


def _translated(error: ResponseError) -> Exception:
    text = str(error)
    if text.startswith("STALE"):
        return StaleEpoch(text.removeprefix("STALE "))
    if isinstance(error, NoPermissionError) or text.startswith(("NOAUTH", "WRONGPASS")):
        hint = (
            "check redis.users, redis.password_file and the server's aclfile: pbxctl render redis"
        )
        return CommandRefused(f"Redis refuses: {text}", hint=hint)
    return FleetUnreachable(f"Redis answers: {text}", hint=_HINT)
