"""Each role's Redis user: it can do its own work, and nothing of what others do."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import redis.asyncio as redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from controller import resources
from controller.config import Config
from controller.config_file import parse
from controller.errors import CommandRefused, FleetUnreachable
from controller.fleet.acl import DATA_COMMANDS, RIGHTS, USERS, acl_file, user_of
from controller.fleet.commands import Drain, StopRecording, encode
from controller.fleet.files import NodeFiles
from controller.fleet.functions import Fleet, connect
from controller.fleet.phones import FleetPhones, NodePhones, PublishedPhone
from controller.fleet.state import Attestation, Beat, Lease
from controller.model import (
    CallStarted,
    CallTruth,
    MediaPolicy,
    PhoneRegistered,
    Placed,
)
from controller.routing.policy import policy
from tests.redis_server import RedisServer

TEXT = """
fleet: acl
regions: {{eu: {{}}}}
nodes:
  a: {{kind: asterisk, region: eu, sip: "192.0.2.1:5061", control: "192.0.2.1:5039",
       password_file: users/driver, calls_max: 10}}
placement: {{ramp_s: 0}}
redis: {{url: "{url}", users: users}}
"""
FUNCTION = re.compile(r"""register_function\('(\w+)'|function_name = '(\w+)'""")
COMMAND = re.compile(r"""redis[._]p?call\(\s*'(\w+)'""")


def lua() -> str:
    folder = resources.folder("lua") / "redis"
    return "".join(path.read_text() for path in sorted(folder.glob("*.lua")))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    folder = tmp_path_factory.mktemp("acl")
    (folder / "users").mkdir()
    passwords = {role: secrets.token_urlsafe(24) for role in USERS}
    for role, password in passwords.items():
        (folder / "users" / role).write_text(password + "\n")
        (folder / "users" / role).chmod(0o600)
    acl = folder / "users.acl"
    acl.write_text(acl_file("acl", passwords) + "user test on nopass ~* &* +@all\n")
    assert not any(password in acl.read_text() for password in passwords.values())
    with RedisServer("--aclfile", str(acl)) as server:
        yield parse(TEXT.format(url=server.url), str(folder / "pbxctl.yaml"))


@pytest.fixture
async def fleets(config: Config) -> AsyncIterator[dict[str, Fleet]]:
    made = {role: Fleet(connect(config, role), config.fleet) for role in USERS}
    yield made
    for fleet in made.values():
        await fleet.close()


def test_the_commands_are_those_of_the_library() -> None:
    used = {name.lower() for name in COMMAND.findall(lua())}
    granted = {command.split("|")[0] for command in DATA_COMMANDS}
    assert used == granted


def test_every_function_has_a_role_and_every_right_a_function() -> None:
    there = {a or b for a, b in FUNCTION.findall(lua())}
    granted = {name for rights in RIGHTS.values() for name in rights.functions}
    assert granted == there


async def join(config: Config, driver: Fleet) -> Lease:
    """Node a takes calls."""
    (lease,) = await driver.claim("d", 60_000, ["a"])
    await driver.set_policy(policy(config), replace=False)
    facts = {"region": "eu", "address": "192.0.2.1:5061", "kind": "asterisk", "weight": 1.0}
    await driver.register(lease, facts | {"calls_max": 10, "owner": "d"})
    hold = f"pbx:{{{config.fleet}}}:node:a"
    await operator(config).hset(hold, "hold", 0)
    await driver.beat(lease, Beat(True, version="22.10.1", channels=0))
    await driver.reconcile(lease, [])
    return lease


async def test_each_role_does_its_work(config: Config, fleets: dict[str, Fleet]) -> None:
    driver, steward, gate, agent = (fleets[r] for r in ("driver", "steward", "gate", "agent"))
    with pytest.raises(FleetUnreachable, match="only the steward"):
        await driver.claim("d", 60_000, ["a"])
    assert await steward.lead("steward", "s", 60_000)
    await steward.set_policy(policy(config))

    lease = await join(config, driver)
    assert [n.name for n in await steward.nodes()] == ["a"]

    for role in ("gate", "agent", "edge"):
        placed = await fleets[role].route(f"call-{role}", "eu", "1", "2")
        assert isinstance(placed, Placed), role
        await driver.events(lease, [CallStarted(f"x-{role}", placement=placed.placement)])
        again = await fleets[role].route(f"{role}-b", "eu", "1", "2")
        assert isinstance(again, Placed)
        await fleets[role].route(f"{role}-b", "eu", "1", "2", failed=again.placement)
    await driver.reconcile(lease, [CallTruth("x-gate")])
    clear = Attestation("plain", "alarm", "a test")
    assert await driver.attest(lease, "x-gate", clear, [10_000])
    ((key, port),) = await agent.looks("a")
    await agent.looked("a", key, "clear", "a test", port)
    assert await driver.seen(lease) == [("x-gate", 10_000)]
    assert await driver.seen(lease) == []
    assert await gate.alarms()

    assert await gate.call("call-gate")
    assert await gate.calls("a")
    await gate.stats()
    assert await gate.want("a", "draining") == "active"
    assert await gate.want("a", "active") == "draining"
    await gate.command("a", "c1", encode(Drain()), True)
    await gate.command("a", "c2", encode(Drain()), True)
    assert await gate.cancel("a", "c2")
    taken = await driver.take(lease)
    assert taken
    await driver.done(lease, taken.id, b"{}")
    assert await gate.result("c1", 1.0) == b"{}"
    assert (await gate.presence()).leader == "s"
    epoch = await gate.lead("phones", "g", 60_000) or ""
    phone = PublishedPhone("1001", "A", next(iter(MediaPolicy)), "md5", "sha")
    await FleetPhones(gate).publish(epoch, "eu", 1, [phone])
    assert await FleetPhones(agent).published() == {"eu": 1}
    assert await FleetPhones(agent).of_region("eu") == (1, [phone])
    await FleetPhones(agent).acknowledge("a", NodePhones({"eu": 1}))
    assert await FleetPhones(steward).acknowledged() == await FleetPhones(gate).acknowledged()
    await FleetPhones(driver).told(lease, [PhoneRegistered("1001", "sip:x", 60)])
    await FleetPhones(driver).reconcile(lease, [PhoneRegistered("1001", "sip:x", 60)])
    assert "1001" in await FleetPhones(gate).registrations("1001")
    assert isinstance(await fleets["edge"].route("call-home", "eu", "1", "1001"), Placed)
    await agent.write_hash("written:a", "certificates", b"c-1")
    assert await NodeFiles(driver, "a").due() == {"certificates": "c-1"}
    await NodeFiles(driver, "a").tell_read(lease, "certificates", "c-1", "")
    assert await NodeFiles(agent, "a").runs_on("certificates") == "c"
    await agent.host_report("a", 0.5, 1.0)
    record = encode(StopRecording("leg", "/r/a/x.raw"))
    await agent.command("a", "rec-1", record, True)
    await agent.command("a", "rec-2", record, True)
    assert await agent.cancel("a", "rec-2")
    taken = await driver.take(lease)
    assert taken and (taken.id, taken.body) == ("rec-1", record)
    await driver.done(lease, taken.id, b"{}")
    assert await agent.result("rec-1", 1.0) == b"{}"
    assert (await fleets["doctor"].presence()).drivers == ("d",)
    await fleets["doctor"].nodes()
    await steward.forget(["a"])
    await driver.release("d", ["a"])


def operator(config: Config) -> redis.Redis:
    return redis.Redis.from_url(config.redis.url or "", username="test", password="x")


NOBODYS = [
    ("CONFIG", "SET", "dir", "/tmp"),
    ("CONFIG", "REWRITE"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("EVAL", "return 1", "0"),
    ("SCRIPT", "LOAD", "return 1"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "x", "on"),
    ("SHUTDOWN", "NOSAVE"),
    ("REPLICAOF", "192.0.2.66", "6379"),
    ("MONITOR",),
    ("MODULE", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SUBSCRIBE", "x"),
    ("FUNCTION", "DELETE", "pbxctl"),
    ("FUNCTION", "FLUSH"),
    ("GET", "other"),
    ("SET", "pbx:{other}:policy", "x"),
    ("GET", "pbx:{other}:policy"),
    ("FCALL", "nodes", "1", "pbx:{other}"),
    ("FCALL", "route", "1", "pbx:{other}", "c", "eu", "1", "2"),
]


@pytest.mark.parametrize("role", USERS)
async def test_what_nobody_may(role: str, fleets: dict[str, Fleet]) -> None:
    for command in NOBODYS:
        with pytest.raises(NoPermissionError):
            await fleets[role].client.execute_command(*command)


#: a key and a write that only some roles may
OTHERS = {
    "policy": ("SET", "policy", {"driver", "steward"}),
    "orders to nodes": ("RPUSH", "commands:a", {"driver", "steward", "gate"}),
    "an order's text": ("HSET", "command:c", {"driver", "gate"}),
    "orders to record": ("RPUSH", "reccommands:a", {"driver", "steward", "agent"}),
    "files to read": ("HSET", "written:a", {"steward", "agent"}),
    "files read": ("HSET", "read:a", {"driver", "steward"}),
    "leases": ("HSET", "lease:a", {"driver", "steward"}),
    "phones": ("HSET", "phones:eu", {"gate"}),
    "the phones' lease": ("HSET", "lease:@phones", {"driver", "steward", "gate"}),
    "registrations": ("HSET", "regs:a", {"driver", "steward"}),
    "live calls": ("HSET", "live:a", {"driver", "steward"}),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("role", USERS)
async def test_whose_keys_a_role_may_write(
    what: str, role: str, config: Config, fleets: dict[str, Fleet]
) -> None:
    command, key, allowed = OTHERS[what]
    full = f"pbx:{{{config.fleet}}}:{key}"
    values = ("x",) if command == "SET" else ("f", "x")
    told = operator(config)
    verdict = await told.acl_dryrun(user_of(role), command, full, *values)
    await told.aclose()
    assert (verdict in (b"OK", "OK")) == (role in allowed), verdict


@pytest.mark.parametrize("role", sorted(set(USERS) - {"gate", "agent", "driver"}))
async def test_a_phones_digests_are_read_by_few(role: str, fleets: dict[str, Fleet]) -> None:
    with pytest.raises(NoPermissionError):
        await fleets[role].client.hgetall("pbx:{acl}:phones:eu")


@pytest.mark.parametrize("role", sorted(set(USERS) - {"steward"}))
async def test_only_the_steward_loads_functions(role: str, fleets: dict[str, Fleet]) -> None:
    with pytest.raises(FleetUnreachable):
        await fleets[role].load()


async def test_each_function_is_for_its_roles_alone(fleets: dict[str, Fleet]) -> None:
    await fleets["steward"].load()
    names = {a or b for a, b in FUNCTION.findall(lua())}
    for role, fleet in fleets.items():
        for name in sorted(names - set(RIGHTS[role].functions)):
            with pytest.raises(CommandRefused):
                await fleet.call_function(name)


async def test_without_a_password_or_with_a_wrong_one_nothing_is_said(config: Config) -> None:
    for user, password in ((None, None), ("pbxctl-gate", "wrong"), ("default", "")):
        client = redis.Redis.from_url(config.redis.url or "", username=user, password=password)
        with pytest.raises(RedisError):
            await client.ping()
        with pytest.raises((RedisError, ResponseError)):
            await client.fcall("nodes", 1, "pbx:{acl}")
        await client.aclose()


def test_a_role_without_its_password_file_says_so(config: Config, tmp_path: Path) -> None:
    gone = msgspec.structs.replace(config.redis, users=str(tmp_path))
    with pytest.raises(Exception, match="secret cannot be read"):
        connect(msgspec.structs.replace(config, redis=gone), "gate")


async def test_an_agent_has_a_pbx_do_nothing_but_record(
    config: Config, fleets: dict[str, Fleet]
) -> None:
    """It writes to its list what it likes; the driver takes none of the gate's orders from it."""
    driver, agent, base = fleets["driver"], fleets["agent"], f"pbx:{{{config.fleet}}}"
    await fleets["steward"].load()
    lease = await join(config, driver)
    await fleets["gate"].command("a", "c3", encode(Drain()), True)
    taken = await driver.take(lease)
    assert taken
    await driver.done(lease, taken.id, b"{}")
    with pytest.raises(FleetUnreachable, match="can't access"):
        await agent.command("a", "c4", encode(Drain()), True)
    await agent.client.execute_command("RPUSH", f"{base}:reccommands:a", "c3")
    assert await driver.take(lease) is None


async def test_a_driver_drives_on_with_the_users_of_before(
    config: Config, fleets: dict[str, Fleet]
) -> None:
    """They know nothing of orders to record."""
    base, admin = f"pbx:{{{config.fleet}}}", operator(config)
    await fleets["steward"].load()
    kinds = set(RIGHTS["driver"].reads + RIGHTS["driver"].writes) - {"reccommands", "reccommand"}
    patterns = [f"~{base}:{kind}{more}" for kind in sorted(kinds) for more in ("", ":*")]
    rules = ["resetkeys", f"~{base}", *patterns]
    await admin.execute_command("ACL", "SETUSER", "pbxctl-driver", *rules)
    try:
        lease = await join(config, fleets["driver"])
        await fleets["gate"].command("a", "c5", encode(Drain()), True)
        assert (await fleets["driver"].beat(lease, Beat(True)))[1] == 1
        assert await fleets["driver"].take(lease)
        await fleets["driver"].done(lease, "c5", b"{}")
        assert await fleets["driver"].take(lease) is None
    finally:
        await admin.execute_command("ACL", "LOAD")


async def test_an_edge_places_by_new_functions_with_the_users_of_0_1(
    config: Config, fleets: dict[str, Fleet]
) -> None:
    """In an upgrade the functions come first. It may neither look for phones nor say whose memory
    this is, nor ask by PTTL; the steward says so as soon as it leads on."""
    base, admin = f"pbx:{{{config.fleet}}}", operator(config)
    kinds = ["policy", "nodes", "node", "live", "resv", "idx", "full", "call", "stats", "at"]
    patterns = [f"~{base}:{kind}{more}" for kind in kinds for more in ("", ":*")]
    patterns.append(f"%R~{base}:server")
    patterns += [f"~{base}", "-pttl"]
    await admin.execute_command("ACL", "SETUSER", "pbxctl-edge", "resetkeys", *patterns)
    await join(config, fleets["driver"])
    try:
        await admin.delete(f"{base}:server")
        placed = await fleets["edge"].route("old-users", "eu", "1", "2")
        assert isinstance(placed, Placed)
        assert await admin.get(f"{base}:server") is None
        assert await fleets["steward"].lead("steward", "s", 60_000)
        assert await admin.get(f"{base}:server")
        again = await fleets["edge"].route("old-users", "eu", "1", "2")
        assert again == placed
        assert isinstance(await fleets["edge"].route("another", "eu", "1", "2"), Placed)
    finally:
        await admin.execute_command("ACL", "LOAD")


async def test_a_steward_loads_functions_with_the_users_of_0_1(
    config: Config, fleets: dict[str, Fleet]
) -> None:
    """It may not do it in one step. Reservations are handed over all the same, or it settles."""
    admin = operator(config)
    await join(config, fleets["driver"])
    assert isinstance(await fleets["edge"].route("before", "eu", "1", "2"), Placed)
    await admin.execute_command("ACL", "SETUSER", "pbxctl-steward", "-multi", "-exec")
    try:
        await fleets["steward"].load()
        verdict = await fleets["edge"].route("after", "eu", "1", "2")
        if isinstance(verdict, Placed):
            assert "calls 0+" in verdict.reason
            assert "calls 0+0" not in verdict.reason
        else:
            assert "settles" in verdict.reason
    finally:
        await admin.execute_command("ACL", "LOAD")
