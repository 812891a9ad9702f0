"""Redis, the function library in it, and who works on the picture."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError, ResponseError

from controller.config import Config
from controller.doctor.finding import Finding, fail, ok, warn
from controller.errors import PbxctlError
from controller.fleet.functions import Fleet, connect
from controller.fleet.library import LIBRARY, library
from controller.fleet.phones import FleetPhones, NodePhones
from controller.fleet.state import NodeView, Presence
from controller.media.phones import behind
from controller.model import NodeState
from controller.pbx.version import parse_version

REDIS_FLOOR = (7, 0)  # Redis Functions
SKEW_WARN_S = 1.0


def judge_version(version: str) -> Finding:
    if parse_version(version) < REDIS_FLOOR:
        return fail(
            "redis", "version", f"Redis {version} has no Functions", "use Redis 7.0 or later"
        )
    return ok("redis", "version", f"Redis {version}")


def judge_memory(settings: Mapping[str, str]) -> Finding:
    policy = settings.get("maxmemory-policy", "")
    if policy == "noeviction" or settings.get("maxmemory") == "0":
        return ok("redis", "maxmemory-policy", f"nothing is evicted ({policy})")
    return fail(
        "redis",
        "maxmemory-policy",
        f"{policy} may throw away calls and reservations",
        "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
    )


def judge_persistence(settings: Mapping[str, str]) -> Finding:
    if settings.get("appendonly") == "yes":
        return ok("redis", "persistence", "append-only file is on")
    if settings.get("save"):
        return ok("redis", "persistence", f"snapshots are on ({settings['save']})")
    return warn(
        "redis",
        "persistence",
        "nothing is kept: a restart loses drains, ejections and call records",
        "CONFIG SET appendonly yes, and the same in redis.conf; live calls come back either way",
    )


def judge_replicas(settings: Mapping[str, str]) -> Finding:
    """Of a primary among Sentinels. One that froze and thaws would go on placing beside the new."""
    if settings.get("min-replicas-to-write", "0") != "0":
        return ok("redis", "replicas", "a primary without replicas takes no words")
    return fail(
        "redis",
        "replicas",
        "a primary that froze goes on placing beside the one that took over",
        "CONFIG SET min-replicas-to-write 1 and min-replicas-max-lag 2, on each server",
    )


def judge_exposure(settings: Mapping[str, str], has_password: bool) -> Finding:
    """Who reaches Redis places calls and commands PBXs."""
    binds = settings.get("bind", "").replace("-", "").split()
    local = all(b in ("::1",) or b.startswith("127.") for b in binds) and bool(binds)
    if settings.get("port") == "0" and settings.get("tls-port", "0") == "0":
        return ok("redis", "exposure", "it listens on a unix socket alone")
    if local:
        return ok("redis", "exposure", f"it listens on {' '.join(binds)} alone")
    where = " ".join(binds) or "every address"
    if has_password:
        return ok("redis", "exposure", f"it listens on {where}, with a password")
    return fail(
        "redis",
        "exposure",
        f"it listens on {where} without a password",
        "bind it to 127.0.0.1 or a private network, set requirepass and redis.password_file",
    )


def judge_skew(about: str, skew_s: float) -> Finding:
    if abs(skew_s) <= SKEW_WARN_S:
        return ok(about, "clock", f"within {abs(skew_s):.2f} s of this machine")
    return warn(
        about,
        "clock",
        f"{abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} this machine",
        "run chrony on both; placement goes by Redis TIME, but logs and records will disagree",
    )


def judge_library(loaded: bytes | None, ours: bytes) -> Finding:
    if loaded is None:
        return warn(
            "redis",
            "functions",
            "the library is not loaded yet",
            "pbxctl loads it at the first call; where edges ask Redis directly: pbxctl run steward",
        )
    if loaded != ours:
        return warn(
            "redis",
            "functions",
            "the library loaded is of another version of pbxctl",
            "bring all roles to one version, then restart the steward",
        )
    return ok("redis", "functions", "the library loaded is this version's")


def judge_crew(presence: Presence) -> list[Finding]:
    found = []
    if presence.leader:
        found.append(ok("fleet", "leader", f"{presence.leader} leads"))
    else:
        found.append(
            fail(
                "fleet", "leader", "no steward leads", "start one: pbxctl up or pbxctl run steward"
            )
        )
    if presence.drivers:
        found.append(ok("fleet", "drivers", f"{len(presence.drivers)} alive"))
    else:
        found.append(
            fail("fleet", "drivers", "none alive", "start one: pbxctl up or pbxctl run driver")
        )
    return found


def judge_place(node: NodeView | None, name: str) -> Finding:
    """What placement thinks of a node."""
    if node is None:
        fix = "start a driver; one that runs knows it after a restart if it was named later"
        return warn(name, "placement", "no driver has registered it", fix)
    if node.state is NodeState.DOWN:
        why = node.problem or node.reason
        others = f"what the other findings about {name} say"
        fix = "set calls_max at the node" if node.reason == "has no limit" else others
        return fail(name, "placement", f"down: {why}", fix)
    return ok(name, "placement", f"{node.state.value}, load {node.load:.2f}")


def judge_phones(name: str, told: NodePhones | None, behind: int, registered: int) -> Finding:
    """told: what its agent acknowledged, None for nothing. behind: changes it does not have."""
    if told is not None and told.problem:
        return fail(
            name,
            "phones",
            f"its file of phones is out of step: {told.problem}",
            "mend that; until then the node lets old passwords in (pbxctl phones list --pending)",
        )
    if behind:
        return warn(
            name,
            "phones",
            f"{behind} changes of phones have not reached it",
            f"run an agent beside it that reaches Redis: pbxctl run agent --node {name}",
        )
    return ok(name, "phones", f"in step, {registered} registered")


async def _phones(config: Config, fleet: Fleet) -> list[Finding]:
    phones = FleetPhones(fleet)
    published = await phones.published()
    if not published:
        return []
    told = await phones.acknowledged()
    counts = await phones.counts(list(config.nodes))
    return [
        judge_phones(n, told.get(n), behind(config, n, published, told), counts[n])
        for n in config.nodes
    ]


async def check_picture(config: Config) -> list[Finding]:
    try:
        fleet = Fleet(connect(config, "doctor"), config.fleet)
    except PbxctlError as error:
        return [fail("redis", "reachable", error.message, error.hint)]
    try:
        client = fleet.client
        begun = time.time()
        presence = await fleet.presence()
        skew_s = presence.now_ms / 1000 - (begun + time.time()) / 2
        found = [ok("redis", "reachable", "it answers"), judge_skew("redis", skew_s)]
        found += await _settings(client, config)
        found.append(judge_library(await _library(client), library()))
        found += judge_crew(presence)
        # A library that is not loaded is told above; `nodes` would load it, and doctor only looks.
        known = {}
        if await _library(client) is not None:
            known = {node.name: node for node in await fleet.nodes()}
            found += await _phones(config, fleet)
        return found + [judge_place(known.get(name), name) for name in config.nodes]
    except PbxctlError as error:
        own = "start it: `pbxctl up` keeps a private Redis, and the config names no other"
        hint = error.hint if config.redis.url else own
        return [fail("redis", "reachable", error.message, hint.removesuffix(": pbxctl doctor"))]
    except (RedisError, OSError) as error:
        return [fail("redis", "reachable", f"{error}", "check the user's rights in Redis (ACL)")]
    finally:
        await fleet.close()


async def _settings(client: redis.Redis, config: Config) -> list[Finding]:
    info: dict[str, Any] = await client.info("server")
    found = [judge_version(str(info["redis_version"]))]
    names = ("maxmemory", "maxmemory-policy", "appendonly", "save", "bind", "port", "tls-port")
    more = ("min-replicas-to-write", "requirepass")
    try:
        raw: dict[Any, Any] = await client.config_get(*names, *more)
    except ResponseError:
        fix = "check by hand: noeviction, appendonly, bind, requirepass"
        return [*found, warn("redis", "settings", "CONFIG GET is not allowed to us", fix)]
    settings = {_text(key): _text(value) for key, value in raw.items()}
    ours = config.redis
    has_password = bool(settings.pop("requirepass", "") or ours.password_file or ours.users)
    if ours.sentinels:
        found.append(judge_replicas(settings))
    return [
        *found,
        judge_memory(settings),
        judge_persistence(settings),
        judge_exposure(settings, has_password),
    ]


async def _library(client: redis.Redis) -> bytes | None:
    rows: Any = await client.function_list(library=LIBRARY, withcode=True)
    for row in rows:
        pairs = dict(zip(row[::2], row[1::2], strict=True)) if isinstance(row, list) else row
        code = pairs.get(b"library_code")
        return code if isinstance(code, bytes) else None
    return None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
