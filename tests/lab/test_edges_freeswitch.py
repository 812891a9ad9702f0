"""Calls onto a rendered FreeSWITCH by a rendered Kamailio, and through a FreeSWITCH as the edge."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from controller.doctor.finding import Level
from controller.doctor.nodes import check_nodes
from controller.fleet.state import CallRecord
from controller.model import NodeState
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone import Phone
from tests.lab.rendered import put_files, put_rendered, start_kamailio
from tests.lab.services import Redis
from tests.lab.sipp import CallsResult
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.freeswitch]

PROFILE = '<X-PRE-PROCESS cmd="include" data="pbxctl-profile.xml"/>'
# who calls the FreeSWITCH that acts as an edge; the operator's own part of its config
CALLERS = """
<profile name="callers"><settings>
<param name="sip-ip" value="{address}"/><param name="rtp-ip" value="{address}"/>
<param name="sip-port" value="5080"/><param name="context" value="pbxctl-edge"/>
<param name="dialplan" value="XML"/><param name="auth-calls" value="false"/>
<param name="manage-presence" value="false"/>
<param name="inbound-codec-prefs" value="PCMU"/>
</settings></profile>
"""
RETRY_AFTER_MAX_S = 5
#: what a stranger gets: he is a phone that has to show a password, which the tests do not have
STRANGER = (401, 403, 407)


@dataclass
class World:
    """ast, fs: nodes of the east, where 95… goes. edge: a FreeSWITCH in the west, where 96… goes.

    kamailio, door: where callers reach the Kamailio of the east, and the FreeSWITCH edge.
    """

    lab: Lab
    fleet: LabFleet
    redis: Redis
    ast: Asterisk
    fs: FreeSwitch
    edge: FreeSwitch
    kamailio: str
    door: str

    def records(self, node: Asterisk | FreeSwitch) -> list[CallRecord]:
        return self.fleet.ask(lambda fleet: fleet.calls(node.name))

    def refuse(self, node: Asterisk | FreeSwitch, on: bool) -> None:
        """The node itself says 503 to each INVITE, FreeSWITCH with `Retry-After: 300`."""
        if isinstance(node, FreeSwitch):
            assert "+OK" in node.esl(f"api fsctl {'pause' if on else 'resume'} inbound")
            return
        state = "on" if on else "off"
        answer = node.ami(f"Action: PJSIPSetMaintenance\r\nEndpoint: all\r\nState: {state}\r\n")
        assert "Success" in answer

    def want(self, name: str, state: str) -> None:
        self.fleet.ask(lambda fleet: fleet.want(name, state))

    def only(self, name: str) -> Asterisk | FreeSwitch:
        """Of the east, this node alone takes calls: which one has less load is chance."""
        for other in {"ast", "fs"} - {name}:
            self.want(other, "draining")
            self.fleet.until_state(other, NodeState.DRAINING)
        return self.ast if name == "ast" else self.fs

    def all(self) -> None:
        for name in ("ast", "fs"):
            self.want(name, "active")

    def calls(self, target: str, number: str = "9500", count: int = 4) -> CallsResult:
        return self.lab.calls(target, number, count=count, hold_s=0.5).result()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab:
        redis = lab.redis()
        ast, fs, edge = lab.asterisk("ast"), lab.freeswitch("fs"), lab.freeswitch("edge")
        kamailio = f"{lab.address()}:5060"
        settings = {
            "edges": {"k": {"region": "east", "sip": kamailio}},
            "numbers": [
                {"prefix": "95", "service": "echo", "regions": ["east"]},
                {"prefix": "96", "service": "echo", "regions": ["west"]},
            ],
            "agent": {"host": lab.address()},
        }
        nodes: dict[Asterisk | FreeSwitch, str] = {ast: "east", fs: "east", edge: "west"}
        with LabFleet(
            lab, nodes, redis, calls_max=20, user="fleet", edge_nodes=["edge"], settings=settings
        ) as fleet:
            put_rendered(fleet.config, ast)
            put_rendered(fleet.config, fs)
            root = put_files(fleet.config, edge) / "freeswitch.xml"
            text = root.read_text()
            assert PROFILE in text
            root.write_text(text.replace(PROFILE, PROFILE + CALLERS.format(address=edge.address)))
            edge.restart()
            start_kamailio(lab, fleet.config, "k")
            for role in ("driver", "steward", "agent"):
                fleet.start(role)
            fleet.until_active()
            yield World(lab, fleet, redis, ast, fs, edge, kamailio, f"{edge.address}:5080")


@pytest.fixture
def ready(world: World) -> Iterator[World]:
    """Everything mended again after the test before, whatever that broke."""
    for name in ("ast", "fs", "edge"):
        world.fleet.until_state(name, NodeState.ACTIVE)
    yield world
    world.redis.thaw()
    world.all()
    for node in (world.ast, world.fs):
        node.thaw()
        until(node.is_ready, 5, f"{node.name} answers again")
        world.refuse(node, False)


def test_a_placed_call_is_known_answered_and_ended(ready: World) -> None:
    """By its placement, though its caller forged another one."""
    ready.only("fs")
    forged = {"X-Pbxctl-Placement": "forged-1"}
    load = ready.lab.calls(ready.kamailio, "9500", count=4, hold_s=3, headers=forged)

    def live() -> list[CallRecord]:
        found = [r for r in ready.records(ready.fs) if r.state == "live" and r.answered_ms]
        return found if len(found) == 4 else []

    records = until(live, 6, "four live calls")
    for record in records:
        assert record.placement
        assert "forged" not in record.placement
        assert (record.region, record.service) == ("east", "echo")
    result = load.result()
    assert result.completed == 4
    assert {r.call_id for r in records} == {c.call_id for c in result.calls}
    for record in records:

        def ended(call_id: str = record.call_id) -> CallRecord | None:
            found = ready.fleet.ask(lambda fleet: fleet.call(call_id))
            return found if found and found.state == "ended" else None

        last = until(ended, 3, f"{record.call_id} has ended")
        assert last is not None
        assert last.ended_ms - last.answered_ms > 2500


def test_a_stranger_gets_no_call_onto_a_node(ready: World) -> None:
    for node in (ready.fs, ready.edge):
        headers = {"X-Pbxctl-Placement": "forged-1"}
        assert ready.lab.call(node, "9500", headers=headers).code in STRANGER
    assert not ready.records(ready.fs)


def test_a_freeswitch_that_refuses_costs_no_call(ready: World) -> None:
    ready.refuse(ready.fs, True)
    assert ready.calls(ready.kamailio, count=6).codes == {200: 6}


@pytest.mark.parametrize(
    ("through", "frozen"), [("kamailio", "fs"), ("door", "fs"), ("door", "ast")]
)
def test_a_frozen_node_costs_the_callers_two_seconds(
    ready: World, through: str, frozen: str
) -> None:
    ready.only(frozen).freeze()
    load = ready.lab.calls(getattr(ready, through), "9500", count=2, hold_s=0.5)
    until(lambda: ready.fleet.view(frozen).reserved, 1.5, "the frozen node was chosen")
    ready.all()
    result = load.result()
    assert result.codes == {200: 2}
    assert 1500 < max(c.setup_ms for c in result.calls) < 2600


@pytest.mark.parametrize("through", ["kamailio", "door"])
def test_retry_after_of_a_freeswitch_never_reaches_a_caller(ready: World, through: str) -> None:
    ready.refuse(ready.fs, True)
    bare = ready.lab.call(ready.fs, "9500")  # refused before anything is asked: it would be seen
    assert bare.code == 503
    assert bare.retry_after_s == 300
    ready.refuse(ready.ast, True)
    call = ready.lab.call(getattr(ready, through), "9500")
    assert call.code == 503
    assert call.retry_after_s is None or call.retry_after_s <= RETRY_AFTER_MAX_S


@pytest.mark.parametrize("kind", ["ast", "fs"])
def test_an_edge_places_on_nodes_of_both_kinds(ready: World, kind: str) -> None:
    node = ready.only(kind)
    load = ready.lab.calls(ready.door, "9500", count=4, hold_s=3)

    def live() -> bool:
        return len([r for r in ready.records(node) if r.placement and r.answered_ms]) == 4

    until(live, 6, "four live calls, by their placement")
    assert load.result().completed == 4


def test_an_edge_places_on_itself(ready: World) -> None:
    load = ready.lab.calls(ready.door, "9600", count=2, hold_s=2)

    def own() -> bool:
        return len([r for r in ready.records(ready.edge) if r.placement and r.answered_ms]) == 2

    until(own, 5, "two calls of its own, by their placement")
    assert load.result().completed == 2
    until(lambda: ready.fleet.view("edge").calls == 0, 3, "they have ended")
    assert ready.fleet.view("edge").reserved == 0


@pytest.mark.parametrize("refusing", ["ast", "fs"])
def test_an_edge_goes_elsewhere_when_a_node_refuses(ready: World, refusing: str) -> None:
    ready.refuse(getattr(ready, refusing), True)
    result = ready.calls(ready.door)
    assert result.codes == {200: 4}
    assert max(c.setup_ms for c in result.calls) < 1000


@pytest.mark.parametrize(
    "caller",
    ['"a%0Ab" <sip:100@here>', '"ab%0A" <sip:100@here>', '"100" <sip:1%0D%0AX-Evil:%201@h>'],
)
def test_an_edge_takes_a_hostile_caller_as_data(ready: World, caller: str) -> None:
    """FreeSWITCH would write the line feed into the INVITE to the node, and hang for 20 s."""
    with Phone(ready.lab.address()) as phone:
        call = phone.call(ready.door, "9500", caller=caller)
        assert call.code == 200
        assert call.setup_s < 1


def test_an_unknown_number_is_the_callers_answer(ready: World) -> None:
    assert ready.lab.call(ready.door, "95x").code == 404
    assert ready.lab.call(ready.kamailio, "95x").code == 404


def test_an_edge_lives_on_its_agents_snapshot(ready: World) -> None:
    ready.redis.freeze()
    result = ready.calls(ready.door)
    assert result.codes == {200: 4}
    assert max(c.setup_ms for c in result.calls) < 1000


def test_without_its_agent_an_edge_says_503_at_once(ready: World) -> None:
    ready.fleet.stop("agent", kill=True)
    try:
        call = ready.lab.call(ready.door, "9500")
    finally:
        ready.fleet.start("agent")
    assert call.code == 503
    assert call.setup_ms < 300


def test_a_frozen_agent_costs_an_edges_callers_a_second(ready: World) -> None:
    agent = ready.fleet.roles["agent"]
    until(lambda: ready.lab.call(ready.door, "9500").code == 200, 8, "the agent answers")
    agent.send_signal(signal.SIGSTOP)
    try:
        call = ready.lab.call(ready.door, "9500")
    finally:
        agent.send_signal(signal.SIGCONT)
    assert call.code == 503
    assert 300 < call.setup_ms < 1500


def test_the_doctor_sees_a_dumped_config_that_is_open(world: World) -> None:
    dump = world.fs.folder / "log" / "freeswitch.xml.fsxml"
    assert world.fs.secret in dump.read_text()
    assert dump.stat().st_mode & 0o077 == 0  # started with the umask that the rendered file asks
    levels = []
    for mode in (0o600, 0o644):
        dump.chmod(mode)
        found = asyncio.run(check_nodes(world.fleet.config))
        levels += [f.level for f in found if f.about == "fs" and f.check == "dumped config"]
    assert levels == [Level.OK, Level.FAIL]
