"""Calls over real PBXs whose media is attested; what becomes of those that are in clear."""

from __future__ import annotations

import pytest

from controller.fleet import commands
from controller.fleet.state import Attestation, CallRecord
from controller.model import OriginateRequest
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.secure_conf import pjsip_conf
from tests.lab.test_fleet import placed, run
from tests.lab.until import until

pytestmark = pytest.mark.lab


def secure_asterisk(lab: Lab, name: str, **options: object) -> Asterisk:
    node = lab.asterisk(name)
    (node.folder / "etc" / "pjsip.conf").write_text(pjsip_conf(node.address, **options))  # type: ignore[arg-type]
    node.restart()
    return node


def started(lab: Lab, nodes: dict[Asterisk | FreeSwitch, str], policy: str) -> LabFleet:
    fleet = LabFleet(lab, nodes, lab.redis(), settings={"media": {"peers": {"trunk": policy}}})
    fleet.start("driver")
    fleet.until_active()
    return fleet


def record(fleet: LabFleet, node: str) -> CallRecord:
    """The node's one live call."""
    return until(lambda: fleet.ask(lambda door: door.calls(node)), 3, "a call")[0]


def attested(fleet: LabFleet, call: CallRecord) -> Attestation:
    def there() -> Attestation | None:
        now = fleet.ask(lambda door: door.call(key(call)))
        return now.security if now else None

    return until(there, 2, "attested")


def key(call: CallRecord) -> str:
    from controller.api.shapes import call_key

    return call_key(call)


def test_an_srtp_call_between_two_nodes_is_attested_on_both(lab: Lab) -> None:
    a, b = secure_asterisk(lab, "a"), secure_asterisk(lab, "b")
    with started(lab, {a: "east", b: "east"}, "require") as fleet:
        verdict = placed(fleet, "call 1")
        request = OriginateRequest(
            f"PJSIP/trunk/sip:9196@{b.sip}", "trunk", "9664", verdict.placement
        )
        assert run(fleet, "a", commands.Originate(request)).state == "done"
        for name in ("a", "b"):
            seen = attested(fleet, record(fleet, name))
            assert seen.verdict == "encrypted"
            assert [leg.encrypted for leg in seen.legs] == [True]
