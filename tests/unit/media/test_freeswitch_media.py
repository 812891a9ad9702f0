"""FreeSWITCH's channel variables, honest and otherwise, as a leg's security."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.pbx.freeswitch_media import ASKED, security

SUITE = "AES_CM_128_HMAC_SHA1_80"
KEY = "1 " + SUITE + " inline:" + base64.b64encode(bytes(30)).decode()
SAVP = "v=0\r\nm=audio 4000 RTP/SAVP 0\r\na=rtpmap:0 PCMU/8000\r\n"


def told(**values: str) -> dict[str, str]:
    honest = {
        "channel_name": "sofia/trunk/100@192.0.2.1",
        "rtp_has_crypto": SUITE,
        "srtp_remote_audio_crypto_key": KEY,
        "switch_r_sdp": SAVP,
        "sip_via_protocol": "tls",
        "local_media_ip": "192.0.2.9",
        "local_media_port": "20000",
    }
    return dict.fromkeys(ASKED, "") | honest | values


def test_an_encrypted_leg() -> None:
    leg = security("u-1", told())
    assert leg is not None
    assert (leg.encrypted, leg.suite, leg.signalling_tls) == (True, SUITE, True)
    assert (leg.peer, leg.local) == ("trunk", "192.0.2.9:20000")
    assert "inline" not in repr(leg)


@pytest.mark.parametrize(
    "values",
    [
        {"rtp_has_crypto": ""},
        {"rtp_has_crypto": "", "rtp_secure_media_negotiated": SUITE},
        {"switch_r_sdp": SAVP.replace("SAVP", "AVP")},
        {"srtp_remote_audio_crypto_key": f"1 {SUITE} inline:AAAA"},
        {"srtp_remote_audio_crypto_key": f"1 {SUITE} inline:!!!!"},
        {"srtp_remote_audio_crypto_key": f"1 {SUITE}"},
        {"rtp_has_crypto": "ROT13"},
        {"rtp_has_crypto": "AES_256_CM_HMAC_SHA1_80"},
    ],
)
def test_whatever_is_not_whole_is_not_encrypted(values: dict[str, str]) -> None:
    leg = security("u-1", told(**values))
    assert leg is not None and leg.encrypted is False


def test_dtls_has_no_key_in_its_sdp() -> None:
    leg = security("u-1", told(srtp_remote_audio_crypto_key="", switch_r_sdp=""))
    assert leg is not None and leg.encrypted is True


@pytest.mark.parametrize("name", ["loopback/9196-a", "null/x", ""])
def test_a_leg_on_no_wire_is_left_out(name: str) -> None:
    assert security("u-1", told(channel_name=name)) is None


def test_another_kind_of_channel_is_unknown() -> None:
    leg = security("u-1", told(channel_name="verto.rtc/1001"))
    assert leg is not None and (leg.encrypted, leg.peer) == (None, "verto.rtc")


@pytest.mark.parametrize(
    ("phone", "peer"),
    [({"user_name": "1001"}, "1001"), ({"dialed_user": "1002"}, "1002"), ({}, "trunk")],
)
def test_a_phone_is_named_by_its_account(phone: dict[str, str], peer: str) -> None:
    leg = security("u-1", told(**phone))
    assert leg is not None and leg.peer == peer


@given(st.fixed_dictionaries(dict.fromkeys(ASKED, st.text(max_size=80))))
def test_hostile_values_never_raise(values: dict[str, str]) -> None:
    security("u-1", values)
    security("u-1", values | {"channel_name": "sofia/trunk/x", "rtp_has_crypto": SUITE})
