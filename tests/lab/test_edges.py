"""Calls through rendered edges onto rendered nodes: a Kamailio, and an Asterisk with its agent."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from controller.fleet.state import CallRecord
from controller.model import NodeState
from controller.render.files import folder_of
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.node import write_secret
from tests.lab.rendered import put_rendered, start_kamailio
from tests.lab.services import Program, Redis
from tests.lab.until import until

pytestmark = pytest.mark.lab

PASSWORD = "edge-redis=secret"
# who calls the Asterisk that acts as an edge; the operator's own part of its config
CALLERS = """
[callers]
type = endpoint
context = pbxctl-edge
allow = !all,alaw,ulaw
[callers]
type = identify
endpoint = callers
match = 127.0.0.0/8
"""


@dataclass
class World:
    """a, b: nodes of the east. c: the Asterisk edge in the west, no node of any number's region."""

    lab: Lab
    fleet: LabFleet
    redis: Redis
    a: Asterisk
    b: Asterisk
    c: Asterisk
    kamailio: Program
    edge: str

    def records(self, node: Asterisk) -> list[CallRecord]:
        return self.fleet.ask(lambda fleet: fleet.calls(node.name))

    def maintenance(self, node: Asterisk, state: str) -> None:
        answer = node.ami(f"Action: PJSIPSetMaintenance\r\nEndpoint: all\r\nState: {state}\r\n")
        assert "Success" in answer


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab:
        redis = lab.redis()
        a, b, c = (lab.asterisk(name) for name in "abc")
        address = lab.address()
        edges = {"k": {"region": "east", "sip": f"{address}:5060"}}
        numbers = [
            {"prefix": "95", "service": "echo", "regions": ["east"]},
            {"prefix": "400", "service": "queue", "regions": ["east"]},
        ]
        settings = {"edges": edges, "numbers": numbers, "agent": {"host": lab.address()}}
        nodes: dict[Asterisk | FreeSwitch, str] = {a: "east", b: "east", c: "west"}
        with LabFleet(lab, nodes, redis, calls_max=20, user="fleet", settings=settings) as fleet:
            document = yaml.safe_load(fleet.config_path.read_text())
            secret = fleet.folder / "secrets" / "redis"
            write_secret(secret, PASSWORD)
            document["redis"]["password_file"] = str(secret)
            document["nodes"]["c"]["edge"] = True
            fleet.config_path.write_text(yaml.safe_dump(document))
            _demand_password(redis)
            config = fleet.config
            kamailio = start_kamailio(lab, config, "k")
            world = World(lab, fleet, redis, a, b, c, kamailio, edges["k"]["sip"])
            for node in (a, b):
                put_rendered(config, node)
            put_rendered(config, c, {"pjsip.conf": CALLERS})
            fleet.start("driver")
            fleet.start("steward")
            fleet.start("agent")
            fleet.until_active()
            yield world


def _demand_password(redis: Redis) -> None:
    with socket.create_connection((redis.address, 6379), timeout=2) as link:
        link.sendall(f"CONFIG SET requirepass {PASSWORD}\r\n".encode())
        assert link.recv(64).startswith(b"+OK")


@pytest.fixture
def ready(world: World) -> Iterator[World]:
    """Everything mended again after the test before, whatever that broke."""
    for node in (world.a, world.b, world.c):
        world.fleet.until_state(node.name, NodeState.ACTIVE)
    yield world
    world.redis.thaw()
    for node in (world.a, world.b):
        node.thaw()
        world.maintenance(node, "off")


def test_a_placed_call_is_known_by_its_placement_not_by_a_forged_one(ready: World) -> None:
    forged = {"X-Pbxctl-Placement": "forged-1"}
    load = ready.lab.calls(ready.edge, "9500", count=4, hold_s=3, headers=forged)

    def live() -> list[CallRecord]:
        found = [*ready.records(ready.a), *ready.records(ready.b)]
        return found if len(found) == 4 else []

    records = until(live, 6, "four live calls, each with its record")
    assert load.result().answered == 4
    calls = load.result().calls
    assert {r.call_id for r in records} == {c.call_id for c in calls}
    assert all(r.placement and "forged" not in r.placement for r in records)
    assert {r.node for r in records} == {"a", "b"}  # by load: neither gets all


def test_a_stranger_gets_no_call_onto_a_node(ready: World) -> None:
    assert not ready.lab.call(ready.a, "9500").answered


def test_a_node_that_refuses_costs_no_call(ready: World) -> None:
    ready.maintenance(ready.a, "on")
    result = ready.lab.calls(ready.edge, "9500", count=6, hold_s=0.5).result()
    assert [c.code for c in result.calls] == [200] * 6


def test_a_frozen_node_costs_the_callers_two_seconds_at_most(ready: World) -> None:
    ready.a.freeze()
    result = ready.lab.calls(ready.edge, "9500", count=4, hold_s=0.5).result()
    assert [c.code for c in result.calls] == [200] * 4
    assert max(c.setup_ms for c in result.calls) < 2600


def test_every_node_refusing_is_503_with_a_short_retry_after(ready: World) -> None:
    for node in (ready.a, ready.b):
        ready.maintenance(node, "on")
    call = ready.lab.call(ready.edge, "9500")
    assert call.code == 503
    assert call.retry_after_s is not None and call.retry_after_s <= 5


def test_an_unknown_number_is_the_callers_answer(ready: World) -> None:
    assert ready.lab.call(ready.edge, "95x").code == 404


def test_with_redis_frozen_calls_find_their_node_by_the_list(ready: World) -> None:
    ready.redis.freeze()
    result = ready.lab.calls(ready.edge, "9500", count=8, hold_s=0.5).result()
    assert [c.code for c in result.calls] == [200] * 8
    assert max(c.setup_ms for c in result.calls) < 1000


def test_the_agent_takes_a_drained_node_off_the_list(ready: World) -> None:
    path = folder_of(ready.fleet.config, "k") / "pbxctl-dispatcher.list"
    ready.fleet.ask(lambda fleet: fleet.want("a", "draining"))
    until(lambda: ready.a.sip not in path.read_text(), 5, "a is off the list")
    assert ready.b.sip in path.read_text()
    ready.fleet.ask(lambda fleet: fleet.want("a", "active"))
    until(lambda: ready.a.sip in path.read_text(), 5, "a is on the list again")


def test_kamailio_reads_a_list_that_changes_again_at_once(ready: World) -> None:
    """Out and in again within the 5 s in which it would refuse to read anew."""
    folder = folder_of(ready.fleet.config, "k")
    command = ["kamcmd", "-s", f"unix:{folder / 'ctl'}", "dispatcher.list"]

    def listed() -> bool:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
        return ready.a.sip in done.stdout

    until(listed, 15, "a is on Kamailio's list")
    ready.fleet.ask(lambda fleet: fleet.want("a", "draining"))
    until(lambda: not listed(), 5, "a is off it")
    ready.fleet.ask(lambda fleet: fleet.want("a", "active"))
    until(listed, 5, "a is on it again")


def test_an_asterisk_edge_asks_its_agent(ready: World) -> None:
    load = ready.lab.calls(ready.c, "9500", count=2, hold_s=3)
    until(
        lambda: sum(r.placement != "" for n in (ready.a, ready.b) for r in ready.records(n)) == 2,
        6,
        "both calls live on the nodes of the number's region, by their placement",
    )
    assert [c.code for c in load.result().calls] == [200, 200]


def test_an_asterisk_edge_goes_elsewhere_when_a_node_refuses(ready: World) -> None:
    ready.maintenance(ready.a, "on")
    result = ready.lab.calls(ready.c, "9500", count=4, hold_s=0.5).result()
    assert [c.code for c in result.calls] == [200] * 4


def test_an_asterisk_edge_lives_on_its_agents_snapshot(ready: World) -> None:
    ready.redis.freeze()
    result = ready.lab.calls(ready.c, "9500", count=4, hold_s=0.5).result()
    assert [c.code for c in result.calls] == [200] * 4
    assert max(c.setup_ms for c in result.calls) < 1000


def test_without_its_agent_an_asterisk_edge_says_503_at_once(ready: World) -> None:
    ready.fleet.stop("agent", kill=True)
    began = time.monotonic()
    assert ready.lab.call(ready.c, "9500").code == 503
    assert time.monotonic() - began < 3  # with SIPp's own start and end
    ready.fleet.start("agent")


def test_an_emptied_redis_costs_no_call(ready: World) -> None:
    load = ready.lab.calls(ready.edge, "9500", count=40, rate_per_s=10, hold_s=1)
    load.wait_answered(8)
    with socket.create_connection((ready.redis.address, 6379), timeout=2) as link:
        link.sendall(f"AUTH {PASSWORD}\r\nFLUSHALL\r\n".encode())
        assert link.recv(64).startswith(b"+OK")
    assert load.result().answered == 40


def test_with_no_driver_alive_calls_find_their_node_by_the_list(ready: World) -> None:
    """Silent nodes are no refusal while nobody listens to them."""
    ready.fleet.stop("driver", kill=True)
    try:
        until(lambda: ready.fleet.view("a").state is NodeState.DOWN, 4, "the picture is late")
        result = ready.lab.calls(ready.edge, "9500", count=6, hold_s=0.5).result()
        assert [c.code for c in result.calls] == [200] * 6
    finally:
        ready.fleet.start("driver")


def test_redis_killed_is_the_list_again(ready: World) -> None:
    """The last one: a new Redis has no password and no data."""
    ready.redis.kill()
    result = ready.lab.calls(ready.edge, "9500", count=6, hold_s=0.5).result()
    assert [c.code for c in result.calls] == [200] * 6


def test_rendered_secrets_are_closed(world: World) -> None:
    for path in (
        folder_of(world.fleet.config, "k") / "pbxctl-redis.cfg",
        world.a.folder / "etc" / "pbxctl-manager.conf",
    ):
        assert Path(path).stat().st_mode & 0o777 == 0o600
