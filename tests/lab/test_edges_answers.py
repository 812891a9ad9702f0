"""What edges make of a node's answers: which are the caller's, and which have another node tried.

The node's signalling is a phone of the test's own, which answers as it is told; its control link is
that of a real PBX.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone import Phone
from tests.lab.rendered import put_files, put_rendered, start_kamailio
from tests.lab.test_edges import CALLERS as ASTERISK_CALLERS
from tests.lab.test_edges_freeswitch import CALLERS as FREESWITCH_CALLERS
from tests.lab.test_edges_freeswitch import PROFILE
from tests.lab.test_services import swap
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.freeswitch]

SILENT_S = 3.0  # longer than a new call waits for its node


@dataclass
class World:
    """doors: where callers reach each kind of edge. node: the signalling of the only node that 95…
    goes to."""

    fleet: LabFleet
    doors: dict[str, str]
    node: Phone
    caller: Phone


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab, Phone(lab.address()) as node, Phone(lab.address()) as caller:
        control, ast, fs = lab.asterisk("n"), lab.asterisk("ast"), lab.freeswitch("fs")
        kamailio = f"{lab.address()}:5060"
        settings = {
            "edges": {"k": {"region": "east", "sip": kamailio}},
            "numbers": [{"prefix": "95", "service": "echo", "regions": ["east"]}],
            "agent": {"host": lab.address()},
        }
        nodes: dict[Asterisk | FreeSwitch, str] = {control: "east", ast: "west", fs: "west"}
        with LabFleet(
            lab, nodes, lab.redis(), edge_nodes=["ast", "fs"], settings=settings
        ) as fleet:
            document = yaml.safe_load(fleet.config_path.read_text())
            document["nodes"]["n"]["sip"] = node.sip
            for edge in ("ast", "fs"):
                document["nodes"][edge]["user"] = "fleet"
            fleet.config_path.write_text(yaml.safe_dump(document))
            put_rendered(fleet.config, ast, {"pjsip.conf": ASTERISK_CALLERS})
            root = put_files(fleet.config, fs) / "freeswitch.xml"
            swap(root, PROFILE, PROFILE + FREESWITCH_CALLERS.format(address=fs.address))
            fs.restart()
            start_kamailio(lab, fleet.config, "k")
            for role in ("driver", "steward", "agent"):
                fleet.start(role)
            fleet.until_active()
            doors = {"kamailio": kamailio, "ast": ast.sip, "fs": f"{fs.address}:5080"}
            yield World(fleet, doors, node, caller)


@pytest.fixture
def ready(world: World) -> Iterator[World]:
    yield world
    for call in world.caller.calls.values():
        call.hang_up()
    world.node.answers, world.node.deaf = 200, False
    world.node.invites.clear()
    world.fleet.until_active()


@pytest.mark.parametrize("edge", ["kamailio", "ast", "fs"])
@pytest.mark.parametrize(
    ("answer", "told"),
    [(404, 404), (480, 480), (486, 486), (408, 503), (500, 503), (503, 503), (504, 503)],
)
def test_a_nodes_answer(ready: World, edge: str, answer: int, told: int) -> None:
    """503: of the fleet, as no other node is left."""
    ready.node.answers = answer
    assert ready.caller.call(ready.doors[edge], "9500").code == told


def test_a_node_cannot_send_a_freeswitch_edges_calls_elsewhere(ready: World) -> None:
    """It redirects to itself."""
    ready.node.answers = 302
    assert ready.caller.call(ready.doors["fs"], "9500", timeout_s=3).code == 503
    assert len(ready.node.invites) == 1


def test_a_call_outlives_a_silence_of_its_node(ready: World) -> None:
    call = ready.caller.call(ready.doors["kamailio"], "9500")
    assert call.code == 200
    ready.node.deaf, call.code = True, 0
    call.request("INVITE", ready.caller.sdp(), "application/sdp")
    time.sleep(SILENT_S)
    assert call.code < 200
    ready.node.deaf = False
    until(lambda: call.code >= 200, 8, "the answer to the re-INVITE")
    assert call.code == 200


@pytest.mark.parametrize("edge", ["kamailio", "ast", "fs"])
def test_calls_with_one_call_id_are_placed_each_by_itself(ready: World, edge: str) -> None:
    """Phone.call makes a From tag of its own for each."""
    for _ in range(2):
        assert ready.caller.call(ready.doors[edge], "9500", call_id=f"same-{edge}").code == 200
    placements = {
        re.search(r"X-Pbxctl-Placement: (\S+)", invite, re.I) for invite in ready.node.invites
    }
    found = {match[1] for match in placements if match}
    assert len(found) == 2, ready.node.invites
