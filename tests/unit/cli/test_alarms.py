"""pbxctl alarms, and what calls show and why say of media."""

from __future__ import annotations

from controller.fleet.state import Attestation, LegMedia
from controller.model import CallEnded, Placed
from tests.gate_server import Stand
from tests.unit.cli.conftest import Pbxctl
from tests.unit.cli.test_calls import live

LEGS = (
    LegMedia("PJSIP/1001-1", True, "AES_CM_128_HMAC_SHA1_80", True, "1001"),
    LegMedia("PJSIP/telco-2", False, "", None, "telco"),
)
REASON = "the media of telco is not encrypted; policy: require"


def attest(stand: Stand, placed: Placed, told: Attestation) -> None:
    lease = stand.playing.leases[placed.node]
    assert stand.run(stand.playing.fleet.attest(lease, "pbx-c1", told))


def test_a_call_is_shown_leg_by_leg(stand: Stand, pbxctl: Pbxctl) -> None:
    placed = live(stand)
    assert "not attested" in pbxctl("calls", "show", "c1").out
    assert pbxctl("calls", "show", "c1", "-o", "json").json["security"] is None
    attest(stand, placed, Attestation("plain", "hangup", REASON, legs=LEGS))
    shown = pbxctl("calls", "show", "c1").out
    assert "PJSIP/1001-1: encrypted by AES_CM_128_HMAC_SHA1_80, signalling TLS" in shown
    assert "PJSIP/telco-2: NOT encrypted, signalling unknown" in shown
    told = pbxctl("calls", "show", "c1", "-o", "json").json["security"]
    assert (told["verdict"], told["action"], told["reason"]) == ("plain", "hangup", REASON)
    assert [leg["encrypted"] for leg in told["legs"]] == [True, False]
    assert "plain" in pbxctl("calls", "list", "-o", "wide").out


def test_why_says_that_it_was_hung_up_for_it(stand: Stand, pbxctl: Pbxctl) -> None:
    placed = live(stand)
    attest(stand, placed, Attestation("plain", "hangup", REASON, legs=LEGS))
    stand.run(stand.playing.event(placed.node, CallEnded("pbx-c1", 57)))
    told = pbxctl("calls", "why", "c1").out
    assert f"NOT encrypted ({REASON})" in told
    assert "hung up for that" in told
    assert "cause 57" in told


def test_alarms_are_listed_the_newest_first(stand: Stand, pbxctl: Pbxctl) -> None:
    assert "no alarms" in pbxctl("alarms").err
    placed = live(stand)
    key = placed.placement.rpartition("-")[0]
    attest(stand, placed, Attestation("plain", "alarm", REASON, legs=LEGS))
    stand.run(stand.playing.fleet.looked(placed.node, key, "clear", "60 packets in clear", 40_000))
    alarms = pbxctl("alarms", "-o", "json").json["alarms"]
    assert [alarm["kind"] for alarm in alarms] == ["packets", "media"]
    assert {alarm["call"] for alarm in alarms} == {key}
    assert REASON in pbxctl("alarms").out
    assert len(pbxctl("alarms", "--limit", "1", "-o", "name").out.splitlines()) == 1
    assert pbxctl("alarms", "--limit", "0").code == 2
    told = pbxctl("calls", "why", "c1").out
    assert "went on, with an alarm" in told
    assert "whatever the PBX said" in told


def test_a_stranger_can_not_whitewash(stand: Stand, pbxctl: Pbxctl) -> None:
    """What the agent saw in clear stays so, and another node's word does not count."""
    placed = live(stand)
    key = placed.placement.rpartition("-")[0]
    attest(stand, placed, Attestation("encrypted", legs=LEGS[:1]))
    fleet = stand.playing.fleet
    other = "e1" if placed.node != "e1" else "e2"
    stand.run(fleet.looked(other, key, "clear", "x", 1))
    assert pbxctl("calls", "show", "c1", "-o", "json").json["security"]["packets"] == ""
    for wire in ("not checked", "encrypted", "clear", "encrypted", "nonsense"):
        stand.run(fleet.looked(placed.node, key, wire, "x", 1))
    assert pbxctl("calls", "show", "c1", "-o", "json").json["security"]["packets"] == "clear"
    assert len(pbxctl("alarms", "-o", "name").out.splitlines()) == 1
