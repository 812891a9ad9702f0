"""Calls over real PBXs whose media is attested; what becomes of those that are in clear."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import redis

from controller.api.shapes import call_key
from controller.fleet import commands
from controller.fleet.state import Attestation, CallRecord
from controller.media.policy import CAUSE_NOT_SECURE
from controller.model import OriginateRequest
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.offers import Offer, Offers, inline, plain, sdes
from tests.lab.secure_conf import pjsip_conf, secure_asterisk, secure_freeswitch
from tests.lab.services import Redis
from tests.lab.test_fleet import placed, run
from tests.lab.until import until

pytestmark = pytest.mark.lab
KINDS = ["asterisk", pytest.param("freeswitch", marks=pytest.mark.freeswitch)]
SPEECH, ECHO = "9664", "9196"


def node_of(lab: Lab, kind: str, *, optional: bool) -> Asterisk | FreeSwitch:
    """A node that takes SRTP, and clear RTP too where it is optional."""
    if kind == "asterisk":
        return secure_asterisk(lab, "n1", optimistic=optional)
    return secure_freeswitch(lab, "n1", "optional" if optional else "mandatory")


def started(lab: Lab, *nodes: Asterisk | FreeSwitch, demand: str) -> LabFleet:
    settings = {"media": {"peers": {"trunk": demand}}}
    fleet = LabFleet(lab, dict.fromkeys(nodes, "east"), lab.redis(), settings=settings)
    fleet.start("driver")
    fleet.until_active()
    return fleet


def live(fleet: LabFleet, node: str = "n1") -> CallRecord:
    """The node's one call."""
    return until(lambda: fleet.ask(lambda door: door.calls(node)), 3, "a call")[0]


def found(fleet: LabFleet, call: CallRecord, verdict: str, within_s: float = 2) -> Attestation:
    """The call's attestation once it is `verdict`."""

    def there() -> Attestation | None:
        now = fleet.ask(lambda door: door.call(call_key(call)))
        return now.security if now and now.security and now.security.verdict == verdict else None

    seen = until(there, within_s, f"attested as {verdict}")
    assert seen is not None
    return seen


def test_an_srtp_call_between_two_nodes_is_attested_on_both(lab: Lab) -> None:
    a, b = secure_asterisk(lab, "a"), secure_asterisk(lab, "b")
    with started(lab, a, b, demand="require") as fleet:
        verdict = placed(fleet, "call 1")
        request = OriginateRequest(
            f"PJSIP/trunk/sip:{ECHO}@{b.sip}", "trunk", SPEECH, verdict.placement
        )
        assert run(fleet, "a", commands.Originate(request)).state == "done"
        for name in ("a", "b"):
            seen = found(fleet, live(fleet, name), "encrypted")
            assert [(leg.encrypted, leg.tls, leg.peer) for leg in seen.legs] == [
                (True, False, "trunk")
            ]
            assert seen.action == "none"
        time.sleep(1.5)  # longer than a re-check: nobody hangs it up
        assert fleet.view("a").calls == fleet.view("b").calls == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_clear_call_is_hung_up_within_a_second_and_says_why(lab: Lab, kind: str) -> None:
    with started(lab, node_of(lab, kind, optional=True), demand="require") as fleet:
        caller = Offers(lab, fleet.nodes["n1"].sip, SPEECH, plain())
        caller.until("answered")
        answered_s = time.monotonic()
        outcome = caller.until("ended")
        assert time.monotonic() - answered_s < 1
        assert outcome.ended_by == "peer"
        assert f"cause={CAUSE_NOT_SECURE}" in outcome.reason
        (alarm,) = until(lambda: fleet.ask(lambda door: door.alarms()), 2, "an alarm")

        def ended() -> CallRecord | None:
            now = fleet.ask(lambda door: door.call(alarm.call))
            return now if now and now.state == "ended" else None

        record = until(ended, 2, "ended in the record")
        assert record is not None and record.security is not None
        assert record.cause == CAUSE_NOT_SECURE
        assert (record.security.verdict, record.security.action) == ("plain", "hangup")
        assert "not encrypted; policy: require" in record.security.reason
        assert record.security.checked_ms - record.answered_ms < 500


@pytest.mark.parametrize("kind", KINDS)
def test_a_clear_call_passes_under_prefer_with_one_alarm(lab: Lab, kind: str) -> None:
    with started(lab, node_of(lab, kind, optional=True), demand="prefer") as fleet:
        caller = Offers(lab, fleet.nodes["n1"].sip, SPEECH, plain(), hold_s=3)
        caller.until("answered")
        seen = found(fleet, live(fleet), "plain")
        assert seen.action == "alarm"
        assert caller.until("over").ended_by == "caller"
        (alarm,) = fleet.ask(lambda door: door.alarms())
        assert (alarm.kind, alarm.node) == ("media", "n1")
        assert alarm.reason in fleet.log("driver")


@pytest.mark.parametrize("kind", KINDS)
def test_a_suite_is_attested_where_the_pbx_tells(lab: Lab, kind: str) -> None:
    with started(lab, node_of(lab, kind, optional=False), demand="require") as fleet:
        Offers(lab, fleet.nodes["n1"].sip, SPEECH, sdes()).until("answered")
        (leg,) = found(fleet, live(fleet), "encrypted").legs
        assert leg.suite == ("AES_CM_128_HMAC_SHA1_80" if kind == "freeswitch" else "")


REFUSED = {
    "no keys": Offer("RTP/AVP"),
    "SAVP without keys": Offer("RTP/SAVP"),
    "key too short": sdes(key="inline:AAAA"),
    "key no base64": sdes(key="inline:!!!!"),
    "unknown suite": sdes(suite="ROT13_HMAC_SHA1_80", key=inline()),
    "no suite": Offer("RTP/SAVP", ("1",)),
    "F8 suite": sdes(suite="F8_128_HMAC_SHA1_80"),
}
# FreeSWITCH takes a key of any form, and calls the leg secure.
KEYS_TAKEN = {("freeswitch", "key too short"), ("freeswitch", "key no base64")}


@pytest.mark.parametrize("kind", KINDS)
def test_no_bad_offer_becomes_a_call(lab: Lab, kind: str) -> None:
    """Refused by the PBX, or taken by it and hung up within a second."""
    with started(lab, node_of(lab, kind, optional=False), demand="require") as fleet:
        for name, offer in REFUSED.items():
            caller = Offers(lab, fleet.nodes["n1"].sip, SPEECH, offer)
            outcome = caller.until("answered")
            if outcome.code == 200:
                answered_s = time.monotonic()
                assert caller.until("ended").ended_by == "peer", name
                assert time.monotonic() - answered_s < 1, name

                assert (kind, name) in KEYS_TAKEN, name
            else:
                assert outcome.code == 488, (name, outcome)


@pytest.mark.parametrize("kind", KINDS)
def test_a_downgrade_is_refused_where_encryption_is_mandatory(lab: Lab, kind: str) -> None:
    with started(lab, node_of(lab, kind, optional=False), demand="require") as fleet:
        caller = Offers(lab, fleet.nodes["n1"].sip, SPEECH, sdes(), then=plain(), hold_s=2)
        assert caller.until("re-invited").second == 488
        assert found(fleet, live(fleet), "encrypted").action == "none"
        assert caller.until("over").ended_by == "caller"


@pytest.mark.freeswitch
def test_a_downgrade_that_freeswitch_takes_ends_the_call(lab: Lab) -> None:
    with started(lab, node_of(lab, "freeswitch", optional=True), demand="require") as fleet:
        caller = Offers(lab, fleet.nodes["n1"].sip, SPEECH, sdes(), then=plain())
        caller.until("answered")
        call = live(fleet)
        found(fleet, call, "encrypted")
        assert caller.until("re-invited").second == 200
        changed_s = time.monotonic()
        assert caller.until("ended").ended_by == "peer"
        assert time.monotonic() - changed_s < 1
        assert found(fleet, call, "plain").action == "hangup"


def test_an_upgrade_is_noticed_where_no_event_tells(lab: Lab) -> None:
    """Asterisk says nothing of a re-INVITE: asking again does."""
    with started(lab, node_of(lab, "asterisk", optional=True), demand="prefer") as fleet:
        caller = Offers(lab, fleet.nodes["n1"].sip, SPEECH, plain(), then=sdes())
        caller.until("answered")
        call = live(fleet)
        found(fleet, call, "plain")
        assert caller.until("re-invited").second == 200
        found(fleet, call, "encrypted", within_s=1.5)


def test_a_clear_leg_that_joins_later_ends_the_call(lab: Lab) -> None:
    """SRTP from the caller, then dialled on to a peer in clear."""
    secure, clear = secure_asterisk(lab, "n1"), lab.asterisk("clear")
    etc = secure.folder / "etc"
    conf = pjsip_conf(secure.address) + "[clear](trunk)\nmedia_encryption = no\n"
    (etc / "pjsip.conf").write_text(conf)
    extensions = (etc / "extensions.conf").read_text()
    dial = (
        f"[trunk](+)\nexten => onward,1,Answer()\n same => n,Wait(0.7)\n"
        f" same => n,Dial(PJSIP/clear/sip:{SPEECH}@{clear.sip})\n"
    )
    (etc / "extensions.conf").write_text(extensions + dial)
    secure.restart()
    settings = {"media": {"peers": {"trunk": "require", "clear": "require"}}}
    with LabFleet(lab, {secure: "east"}, lab.redis(), settings=settings) as fleet:
        fleet.start("driver")
        fleet.until_active()
        caller = Offers(lab, secure.sip, "onward", sdes())
        caller.until("answered")
        call = live(fleet)
        found(fleet, call, "encrypted")
        seen = found(fleet, call, "plain")
        assert sorted(leg.encrypted is True for leg in seen.legs) == [False, True]
        assert "clear is not encrypted" in seen.reason
        assert caller.until("ended").ended_by == "peer"


def test_a_driver_that_comes_late_attests_what_is_up(lab: Lab) -> None:
    with started(lab, node_of(lab, "asterisk", optional=True), demand="require") as fleet:
        fleet.stop("driver", kill=True)
        caller = Offers(lab, fleet.nodes["n1"].sip, SPEECH, plain(), hold_s=20)
        caller.until("answered")
        fleet.start("driver", "second")
        assert caller.until("ended", 15).ended_by == "peer"


@pytest.mark.parametrize("kind", KINDS)
def test_no_key_is_written_anywhere(lab: Lab, kind: str) -> None:
    """Both PBXs know the keys, and FreeSWITCH puts them on each event."""
    with started(lab, node_of(lab, kind, optional=False), demand="require") as fleet:
        offer = sdes()
        key = re.search(r"inline:(\S+)", offer.crypto[0])
        assert key is not None
        caller = Offers(lab, fleet.nodes["n1"].sip, SPEECH, offer, hold_s=2)
        caller.until("answered")
        found(fleet, live(fleet), "encrypted")
        server = next(node for node in lab.nodes if isinstance(node, Redis))
        told = everything(server) + "".join(p.read_text("utf-8", "replace") for p in logs(fleet))
        assert "trunk" in told, "the right place to look"
        assert key[1] not in told
        assert "inline:" not in told
        assert not re.search(r"crypto_key|a=crypto", told)
        caller.until("over")


@pytest.mark.parametrize("demand", ["prefer", "require"])
def test_clear_packets_of_a_call_that_the_pbx_calls_encrypted(lab: Lab, demand: str) -> None:
    """The caller agrees on SRTP and then sends speech in clear: an alarm, and under `require` the
    end of the call."""
    node = node_of(lab, "asterisk", optional=False)
    settings = {
        "media": {"peers": {"trunk": demand}, "sample_share": 1.0},
        "agent": {"host": lab.address()},
    }
    with LabFleet(lab, {node: "east"}, lab.redis(), settings=settings) as fleet:
        fleet.start("driver")
        fleet.start("agent")
        fleet.until_active()
        honest = Offers(lab, node.sip, SPEECH, sdes(), hold_s=6)
        honest.until("answered")
        call = live(fleet)
        until(lambda: packets(fleet, call) == "encrypted", 5, "seen encrypted")
        honest.until("over", 12)
        assert not fleet.ask(lambda door: door.alarms())
        liar = Offers(lab, node.sip, SPEECH, sdes(), hold_s=6, rtp=True)
        liar.until("answered")
        until(lambda: fleet.view("n1").calls == 1, 3, "one call")
        call = live(fleet)
        assert found(fleet, call, "encrypted").action == "none"
        until(lambda: packets(fleet, call) == "clear", 5, "seen clear")
        saw_s = time.monotonic()
        alarms = fleet.ask(lambda door: door.alarms())
        assert ("packets", call_key(call)) in [(alarm.kind, alarm.call) for alarm in alarms]
        if demand == "prefer":
            assert found(fleet, call, "plain").action == "alarm"
            assert liar.until("over", 12).ended_by == "caller"
            return
        outcome = liar.until("ended", 2)
        assert time.monotonic() - saw_s < 1
        assert f"cause={CAUSE_NOT_SECURE}" in outcome.reason
        assert "on the wire are not encrypted" in found(fleet, call, "plain").reason


def packets(fleet: LabFleet, call: CallRecord) -> str:
    now = fleet.ask(lambda door: door.call(call_key(call)))
    return now.security.packets if now and now.security else ""


def everything(server: Redis) -> str:
    """All that Redis holds, by its own dump of each key."""
    client = redis.Redis.from_url(server.url)
    client.config_set("rdbcompression", "no")
    dumps = [client.dump(name) or b"" for name in client.keys("*")]
    return b"".join(dumps).decode("latin-1")


def logs(fleet: LabFleet) -> list[Path]:
    return sorted(fleet.folder.glob("*.log"))
