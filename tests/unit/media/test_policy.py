"""What follows from a call's legs: every combination of demand and knowledge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.config import Config, Demand, MediaConfig, NodeConfig
from controller.media.policy import CAUSE_NOT_SECURE, GRACE_S, Demands, judge
from controller.model import Kind, Ruling, Security

SECURE = Security("PJSIP/1001-1", True, peer="1001")
CLEAR = Security("PJSIP/1001-1", False, peer="1001")
UNTOLD = Security("PJSIP/1001-1", None, peer="1001")


def demands(phones: Demand = "require", trunk: Demand = "require", **peers: Demand) -> Demands:
    return Demands(trunk, phones, peers)


@pytest.mark.parametrize(
    ("demand", "leg", "waited_s", "action"),
    [
        ("require", SECURE, 0.0, "none"),
        ("require", CLEAR, 0.0, "hangup"),
        ("require", UNTOLD, 0.0, "wait"),
        ("require", UNTOLD, GRACE_S, "hangup"),
        ("prefer", SECURE, 0.0, "none"),
        ("prefer", CLEAR, 0.0, "alarm"),
        ("prefer", UNTOLD, 0.0, "wait"),
        ("prefer", UNTOLD, GRACE_S, "alarm"),
        ("off", CLEAR, 9.0, "none"),
        ("off", UNTOLD, 9.0, "none"),
    ],
)
def test_one_leg(demand: Demand, leg: Security, waited_s: float, action: str) -> None:
    ruling = judge(demands(demand), [leg], waited_s)
    assert ruling.action == action
    assert ruling.verdict == {True: "encrypted", False: "plain", None: "unknown"}[leg.encrypted]
    assert (ruling.cause == CAUSE_NOT_SECURE) == (action == "hangup")
    assert (leg.peer in ruling.reason) == (leg is not SECURE)


def test_one_clear_leg_spoils_the_call() -> None:
    ruling = judge(demands(), [SECURE, CLEAR, SECURE], 0)
    assert (ruling.verdict, ruling.action) == ("plain", "hangup")


def test_each_leg_is_judged_by_its_own_demand() -> None:
    trunk = Security("PJSIP/pbxctl-to-b-1", False, peer="pbxctl-to-b")
    assert judge(demands("require", "off"), [SECURE, trunk], 0).action == "none"
    assert judge(demands("off", "require"), [CLEAR, trunk], 0).action == "hangup"
    assert judge(demands("prefer", "require"), [CLEAR, trunk], 0).action == "hangup"
    assert judge(demands("prefer", "off"), [CLEAR, trunk], 0).action == "alarm"


@pytest.mark.parametrize("peer", ["pbxctl", "pbxctl-trunk", "pbxctl-to-west2"])
def test_rendered_trunks_are_trunks(peer: str) -> None:
    assert demands("off", "require").of_peer(peer) == "require"


@pytest.mark.parametrize("peer", ["1001", "pbxctlx", "my-pbxctl-trunk", ""])
def test_everything_else_is_a_phone(peer: str) -> None:
    assert demands("require", "off").of_peer(peer) == "require"


def test_the_first_pattern_that_fits_wins() -> None:
    listed = Demands("require", "require", {"telco-*": "prefer", "telco-a": "off"})
    assert listed.of_peer("telco-a") == "prefer"
    assert listed.of_peer("telco") == "require"


def test_a_phone_added_with_prefer_passes_with_an_alarm() -> None:
    lenient = Demands("require", "require", {"1003": "require"}, frozenset({"1001", "1003"}))
    assert judge(lenient, [CLEAR], 0).action == "alarm"
    assert lenient.of_peer("1002") == lenient.of_peer("1003") == "require"
    trunk = Demands("require", "off", {}, frozenset({"pbxctl-trunk", "1001"}))
    assert (trunk.of_peer("pbxctl-trunk"), trunk.of_peer("1001")) == ("require", "off")


def test_a_silent_pbx_is_judged_by_the_strictest_demand() -> None:
    assert judge(demands("off", "off", x="require"), None, 0).action == "wait"
    assert judge(demands("off", "off", x="require"), None, GRACE_S).action == "hangup"
    assert judge(demands("off", "prefer"), None, GRACE_S).action == "alarm"


def test_no_leg_on_a_wire_is_nothing_to_judge() -> None:
    assert judge(demands(), [], 9) == Ruling("unknown", reason="none of its legs is on a wire")


@given(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=5), st.floats(0, 10))
def test_under_require_a_call_goes_on_only_if_every_leg_is_encrypted(
    legs: list[bool | None], waited_s: float
) -> None:
    ruling = judge(demands(), [Security("x", leg, peer="x") for leg in legs], waited_s)
    assert (ruling.action == "none") == all(legs)
    assert ruling.action != "wait" or waited_s < GRACE_S


@pytest.mark.parametrize(("own", "demand"), [({}, "off"), ({"pbxctl-*": "prefer"}, "prefer")])
def test_plain_peers_are_let_be_unless_the_config_says_otherwise(
    own: dict[str, Demand], demand: Demand
) -> None:
    node = NodeConfig(
        kind=Kind.ASTERISK,
        region="eu",
        sip="192.0.2.1:5061",
        control="192.0.2.1:5039",
        password_file="pw",
    )
    media = MediaConfig(peers=own)
    found = Demands.of(Config(fleet="f", nodes={"a": node}, regions={}, media=media))
    assert found.of_peer("pbxctl-plain") == demand
    assert found.of_peer("1001") == "require"
