"""The driver and steward roles over real PBXs and calls: what breaks, and what then holds."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator

import pytest

from controller.fleet import commands
from controller.fleet.commands import CommandResult, NodeCommand
from controller.fleet.functions import Fleet
from controller.model import NodeState, OriginateRequest, Placed, Rejected
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.node import write_secret
from tests.lab.services import Redis
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]


@pytest.fixture
def fleet(lab: Lab) -> Iterator[LabFleet]:
    """Two Asterisk nodes, east and west, under one driver and one steward."""
    nodes: dict[Asterisk | FreeSwitch, str] = {
        lab.asterisk("e1"): "east",
        lab.asterisk("w1"): "west",
    }
    with LabFleet(lab, nodes, lab.redis(), calls_max=20) as running:
        running.start("driver")
        running.start("steward")
        running.until_active()
        yield running


def redis_of(fleet: LabFleet) -> Redis:
    return next(node for node in fleet.lab.nodes if isinstance(node, Redis))


def placed(fleet: LabFleet, call_id: str, region: str = "east") -> Placed:
    verdict = fleet.route(call_id, region)
    assert isinstance(verdict, Placed), verdict
    return verdict


def run(fleet: LabFleet, node: str, command: NodeCommand, within_s: float = 5) -> CommandResult:
    async def ask(door: Fleet) -> bytes | None:
        command_id = secrets.token_hex(8)
        body, again = commands.encode(command), commands.repeatable(command)
        await door.command(node, command_id, body, again)
        return await door.result(command_id, within_s)

    raw = fleet.ask(ask)
    assert raw is not None, "no result in time"
    return commands.decode_result(raw)


def test_a_placed_call_is_confirmed_answered_and_ended(fleet: LabFleet) -> None:
    placement = placed(fleet, "call 1")
    assert fleet.view("e1").reserved == 1
    headers = {"X-Pbxctl-Placement": placement.placement}
    calls = fleet.lab.calls(placement.address, hold_s=2, headers=headers)
    calls.wait_answered(1)
    until(lambda: (fleet.view("e1").calls, fleet.view("e1").reserved) == (1, 0), 2, "confirmed")
    record = fleet.ask(lambda door: door.call("call 1"))
    assert record is not None
    assert (record.state, record.node, record.region) == ("live", "e1", "east")
    assert calls.result().answered == 1
    until(lambda: fleet.view("e1").calls == 0, 2, "ended")
    record = fleet.ask(lambda door: door.call("call 1"))
    assert record is not None
    assert record.state == "ended"
    assert record.started_ms >= record.placed_ms > 0
    assert record.ended_ms - record.answered_ms > 1500


def test_a_call_the_fleet_did_not_place_counts(fleet: LabFleet) -> None:
    calls = fleet.lab.calls(fleet.nodes["e1"].sip, count=3, hold_s=2)
    calls.wait_answered(3)
    until(lambda: fleet.view("e1").calls == 3, 2, "three calls counted")
    assert calls.result().answered == 3
    until(lambda: fleet.view("e1").calls == 0, 2, "none left")


def test_a_killed_node_is_out_at_once_and_comes_back(fleet: LabFleet) -> None:
    node = fleet.nodes["e1"]
    killed_s = time.monotonic()
    node.kill()
    until(lambda: placed(fleet, secrets.token_hex(4)).node == "w1", 1, "calls go west")
    assert time.monotonic() - killed_s < 0.5
    assert fleet.view("e1").problem
    node.restart()
    fleet.until_state("e1", NodeState.ACTIVE)


def test_a_frozen_node_is_out_within_two_seconds(fleet: LabFleet) -> None:
    node = fleet.nodes["e1"]
    frozen_s = time.monotonic()
    node.freeze()
    until(lambda: placed(fleet, secrets.token_hex(4)).node == "w1", 3, "calls go west")
    assert time.monotonic() - frozen_s < 2
    node.thaw()
    fleet.until_state("e1", NodeState.ACTIVE)


def test_signalling_that_is_stuck_takes_a_node_out_though_its_link_answers(
    fleet: LabFleet,
) -> None:
    node = fleet.nodes["e1"]
    fleet.lab.run.deafen(node.address)
    until(lambda: fleet.view("e1").state is NodeState.DOWN, 4, "e1 down")
    assert "signalling" in fleet.view("e1").reason
    fleet.lab.run.heal(node.address)
    fleet.until_state("e1", NodeState.ACTIVE)


def test_a_killed_driver_is_replaced_within_three_seconds(fleet: LabFleet) -> None:
    fleet.start("driver", "second")
    until(lambda: len({v.driver for v in fleet.views().values()}) == 2, 10, "both drive")
    fleet.until_active()
    calls = fleet.lab.calls(fleet.nodes["e1"].sip, count=2, hold_s=8)
    calls.wait_answered(2)
    first = fleet.roles["driver"]
    fleet.stop("driver", kill=True)
    killed_s = time.monotonic()
    drives = str(fleet.roles["second"].pid)
    until(
        lambda: all(
            drives in v.driver and v.state is NodeState.ACTIVE for v in fleet.views().values()
        ),
        6,
        "the second driver has all nodes",
    )
    assert time.monotonic() - killed_s < 3
    assert first.returncode is not None
    assert fleet.view("e1").calls == 2
    assert calls.result().completed == 2


def test_lost_data_is_whole_again_within_ten_seconds(fleet: LabFleet) -> None:
    calls = fleet.lab.calls(fleet.nodes["e1"].sip, count=3, hold_s=8)
    calls.wait_answered(3)
    lost_s = time.monotonic()
    redis_of(fleet).restart()
    fleet.until_active(10)
    assert time.monotonic() - lost_s < 10
    assert fleet.view("e1").calls == 3
    assert isinstance(fleet.route("after"), Placed)
    assert calls.result().completed == 3


def test_redis_away_costs_no_call(fleet: LabFleet) -> None:
    calls = fleet.lab.calls(fleet.nodes["e1"].sip, count=2, hold_s=5)
    calls.wait_answered(2)
    redis = redis_of(fleet)
    redis.kill()
    time.sleep(1.5)
    redis.restart()
    fleet.until_active(10)
    assert fleet.view("e1").calls == 2
    assert calls.result().completed == 2


def test_a_wrong_password_is_shown_and_not_repeated(fleet: LabFleet) -> None:
    node = fleet.nodes["e1"]
    assert isinstance(node, Asterisk)
    secret = fleet.folder / "secrets" / "e1"
    right = secret.read_text()
    secret.unlink()
    write_secret(secret, "wrong")
    fleet.stop("driver")
    fleet.start("driver")
    until(lambda: "refuse" in fleet.view("e1").problem.lower(), 8, "the problem is shown")
    time.sleep(3)
    log = node.messages.read_text()
    assert log.count("failed to authenticate") == 1, log
    secret.unlink()
    write_secret(secret, right)
    fleet.until_state("e1", NodeState.ACTIVE)


def test_draining_keeps_calls_and_takes_none(fleet: LabFleet) -> None:
    calls = fleet.lab.calls(fleet.nodes["e1"].sip, count=2, hold_s=6)
    calls.wait_answered(2)
    assert fleet.ask(lambda door: door.want("e1", "draining")) == "active"
    assert run(fleet, "e1", commands.Drain()).state == "done"
    assert placed(fleet, "while draining").node == "w1"
    refused = fleet.lab.call(fleet.nodes["e1"].sip, hold_s=0.2)
    assert refused.code == 503
    assert fleet.view("e1").state is NodeState.DRAINING
    assert fleet.view("e1").calls == 2
    fleet.ask(lambda door: door.want("e1", "active"))
    assert run(fleet, "e1", commands.Resume()).state == "done"
    assert fleet.lab.call(fleet.nodes["e1"].sip, hold_s=0.2).code == 200
    assert calls.result().completed == 2


def test_commands_reach_the_call(fleet: LabFleet) -> None:
    calls = fleet.lab.calls(fleet.nodes["e1"].sip, hold_s=20)
    calls.wait_answered(1)
    until(lambda: fleet.view("e1").calls == 1, 2, "seen")
    record = fleet.ask(lambda door: door.calls("e1"))[0]
    assert run(fleet, "e1", commands.Hangup(record.pbx_id)).state == "done"
    until(lambda: fleet.view("e1").calls == 0, 2, "hung up")
    assert calls.result().calls[0].hung_up_by_peer
    again = run(fleet, "e1", commands.Hangup(record.pbx_id))
    assert again.state == "failed"


def test_an_originated_call_fills_its_placement(fleet: LabFleet) -> None:
    placement = placed(fleet, "outbound")
    request = OriginateRequest("Local/9196@trunk", "trunk", "9196", placement.placement)
    result = run(fleet, placement.node, commands.Originate(request))
    assert result.state == "done", result
    until(lambda: fleet.view(placement.node).calls == 1, 3, "the call is live")
    until(lambda: fleet.view(placement.node).reserved == 0, 3, "its reservation is filled")
    assert run(fleet, placement.node, commands.Hangup(result.pbx_id)).state == "done"


def test_a_command_lost_with_its_driver_is_not_run_twice(fleet: LabFleet) -> None:
    """Taken by a driver that then dies: an originate ends as unknown, and never again."""

    async def take_as_driver(door: Fleet) -> None:
        lease = (await door.claim("doomed", 60_000, ["e1"]))[0]
        await door.command("e1", "c1", commands.encode(commands.Truth()), False)
        assert (taken := await door.take(lease)) and taken.id == "c1"
        await door.release("doomed", ["e1"])

    fleet.stop("driver")
    fleet.ask(take_as_driver)
    fleet.start("driver")
    fleet.until_state("e1", NodeState.ACTIVE)
    assert run(fleet, "e1", commands.Truth()).state == "done"
    raw = fleet.ask(lambda door: door.result("c1", 2))
    assert raw is not None
    assert json.loads(raw)["state"] == "unknown"


def test_all_nodes_gone_is_a_clear_refusal(fleet: LabFleet) -> None:
    for node in fleet.nodes.values():
        node.kill()
    until(lambda: isinstance(fleet.route(secrets.token_hex(4)), Rejected), 3, "refused")
    verdict = fleet.route("none left")
    assert isinstance(verdict, Rejected)
    assert verdict.cause == 503
    assert verdict.retry_after_s < 10
    assert "east, west" in verdict.reason


@pytest.mark.freeswitch
def test_a_freeswitch_node_is_driven_alike(lab: Lab) -> None:
    nodes: dict[Asterisk | FreeSwitch, str] = {lab.freeswitch("f1"): "east"}
    with LabFleet(lab, nodes, lab.redis()) as fleet:
        fleet.start("driver")
        fleet.until_active()
        placement = placed(fleet, "call 1")
        headers = {"X-Pbxctl-Placement": placement.placement}
        calls = lab.calls(placement.address, hold_s=2, headers=headers)
        calls.wait_answered(1)
        until(lambda: (fleet.view("f1").calls, fleet.view("f1").reserved) == (1, 0), 2, "live")
        assert calls.result().completed == 1
        until(lambda: fleet.view("f1").calls == 0, 3, "ended")
        assert run(fleet, "f1", commands.Drain()).state == "done"
        assert lab.call(fleet.nodes["f1"].sip, hold_s=0.2).code == 503
        assert run(fleet, "f1", commands.Resume()).state == "done"
        fleet.nodes["f1"].kill()
        fleet.until_state("f1", NodeState.DOWN, 1)
        fleet.nodes["f1"].restart()
        fleet.until_state("f1", NodeState.ACTIVE)
