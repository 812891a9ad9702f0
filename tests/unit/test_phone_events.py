"""Registrations as the PBXs tell of them (Asterisk 22.10, FreeSWITCH 1.11), and forged ones."""

from __future__ import annotations

import json

import pytest

from controller.errors import ProtocolViolation
from controller.model import PhoneGone, PhoneRegistered
from controller.pbx import asterisk_phones, freeswitch_phones
from controller.pbx.ami_message import parse
from controller.pbx.esl_frames import EslEvent
from controller.pbx.worker_phones import mended

CONTACT = "sip:1001-0x5587a2f081e0@127.0.100.15:34027"
NOW_S = 1_795_452_200.0


def ami(**headers: str) -> bytes:
    return "\r\n".join(f"{k}: {v}" for k, v in headers.items()).encode()


def contact_status(**changed: str) -> object:
    told = {
        "Event": "ContactStatus", "Privilege": "system,all", "URI": CONTACT,
        "ContactStatus": "Reachable", "AOR": "1001", "EndpointName": "1001",
        "RoundtripUsec": "655",
    }  # fmt: skip
    return asterisk_phones.status(parse(ami(**told | changed)))


def contact_row(**changed: str) -> object:
    row = {
        "Event": "ContactList", "ObjectType": "contact", "ObjectName": "1001;@34e3",
        "ViaAddr": "127.0.103.14", "Endpoint": "1001", "Uri": CONTACT,
        "UserAgent": "baresip v1.1.0 (x86_64/linux)", "ExpirationTime": "1795452242",
        "Status": "Reachable",
    }  # fmt: skip
    return asterisk_phones.listed(parse(ami(**row | changed)), NOW_S)


def test_asterisk_tells_of_a_phone() -> None:
    assert contact_status() == PhoneRegistered("1001", CONTACT, transport="udp")
    tls = contact_status(URI=CONTACT + ";transport=TLS")
    assert isinstance(tls, PhoneRegistered)
    assert tls.transport == "tls"
    for gone in ("Removed", "Unreachable"):
        assert contact_status(ContactStatus=gone) == PhoneGone("1001", CONTACT)


@pytest.mark.parametrize(
    "changed",
    [{"AOR": "pbxctl-to-b", "EndpointName": "pbxctl-to-b"}, {"EndpointName": "other"}, {"URI": ""},
     {"AOR": "../x", "EndpointName": "../x"}, {"AOR": "x" * 33, "EndpointName": "x" * 33}],
)  # fmt: skip
def test_asterisk_tells_of_what_is_no_phone(changed: dict[str, str]) -> None:
    assert contact_status(**changed) is None


def test_asterisk_lists_a_phone() -> None:
    agent = "baresip v1.1.0 (x86_64/linux)"
    assert contact_row() == PhoneRegistered("1001", CONTACT, 42.0, agent, "udp")
    long = contact_row(UserAgent="\x1b[2J" * 100, Uri="sip:" + "x" * 500)
    assert isinstance(long, PhoneRegistered)
    assert (len(long.user_agent), len(long.contact)) == (128, 128)


@pytest.mark.parametrize(
    "changed",
    [{"ExpirationTime": "0"}, {"ExpirationTime": "1795452100"}, {"ExpirationTime": "9" * 40},
     {"ExpirationTime": "soon"}, {"Endpoint": "pbxctl-to-b"}, {"Uri": ""},
     {"Status": "Unreachable"}],
)  # fmt: skip
def test_asterisk_lists_what_is_no_phone_there(changed: dict[str, str]) -> None:
    assert contact_row(**changed) is None


def esl(**headers: str) -> EslEvent:
    told = {
        "Event-Name": "CUSTOM", "Event-Subclass": "sofia::register", "profile-name": "pbxctl",
        "from-user": "1001", "from-host": "lab", "username": "1001", "realm": "lab",
        "contact": f'"1001" <{CONTACT};transport=tcp;fs_nat=yes;fs_path=sip%3A1%3Btransport%3Dtcp>',
        "expires": "20", "user-agent": "baresip v1.1.0",
    }  # fmt: skip
    changed = {k.replace("_", "-"): v for k, v in headers.items()}
    return EslEvent({**told, **changed})


def test_freeswitch_tells_of_a_phone() -> None:
    contact = f"{CONTACT};transport=tcp"
    (told,) = freeswitch_phones.told(esl())
    assert told == PhoneRegistered("1001", contact, 20.0, "baresip v1.1.0", "tcp")
    for kind in ("sofia::unregister", "sofia::expire"):
        assert freeswitch_phones.told(esl(Event_Subclass=kind)) == [PhoneGone("1001", contact)]


@pytest.mark.parametrize(
    "changed",
    [{"from_user": "../x"}, {"from_user": "pbxctl"}, {"contact": "no uri"}, {"contact": ""},
     {"Event_Subclass": "sofia::gateway_state"}],
)  # fmt: skip
def test_freeswitch_tells_of_what_is_no_phone(changed: dict[str, str]) -> None:
    assert freeswitch_phones.told(esl(**changed)) == []


def test_freeswitch_lists_phones() -> None:
    row = {
        "reg_user": "1001", "realm": "lab", "token": "x", "network_proto": "tcp",
        "url": f"sofia/pbxctl/{CONTACT};transport=tcp", "expires": str(int(NOW_S) + 75),
    }  # fmt: skip
    old = row | {"reg_user": "1002", "expires": str(int(NOW_S) + 55)}
    text = json.dumps({"row_count": 2, "rows": [row, old, row | {"reg_user": "A;b"}]})
    found = freeswitch_phones.listed(text, NOW_S)
    assert found == [PhoneRegistered("1001", f"{CONTACT};transport=tcp", 15.0, "", "tcp")]
    assert freeswitch_phones.listed('{"row_count": 0}', NOW_S) == []
    with pytest.raises(ProtocolViolation):
        freeswitch_phones.listed("-ERR", NOW_S)


def test_a_late_list_yields_to_events() -> None:
    one, two = PhoneRegistered("1", "sip:a"), PhoneRegistered("2", "sip:b")
    assert mended([], [one]) == [one]
    assert mended([one, two], [PhoneGone("1", "sip:a")]) == [two]
    assert mended([one], [PhoneGone("1", "sip:older")]) == [one]
    moved = PhoneRegistered("1", "sip:new")
    assert mended([one], [moved]) == [moved]
