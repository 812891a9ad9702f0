"""What FreeSWITCH tells of a leg's media, out of its channel variables. No input or output here.

    rtp_has_crypto                the suite in use. It never falls back: after a re-INVITE without
                                  keys that FreeSWITCH accepts, both directions keep the old keys.
    switch_r_sdp                  the far end's last SDP, so it shows such a re-INVITE.
    rtp_secure_media_negotiated   not used: after a re-INVITE with keys on a clear call it names a
                                  suite while the packets stay clear.
    key length                    FreeSWITCH takes a key of any length, `inline:AAAA` too, and calls
                                  the leg secure; what arrives by such a key is not counted so.

Seen on 1.11. The SDP and the key variable hold SRTP keys: they are looked at here and go nowhere.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from controller.model import Security

# An outbound leg has the Via that FreeSWITCH itself wrote, an inbound one the peer's.
ASKED = (
    "channel_name",
    "rtp_has_crypto",
    "srtp_remote_audio_crypto_key",
    "switch_r_sdp",
    "sip_via_protocol",
    "sip_full_via",
    "user_name",
    "dialed_user",
    "local_media_ip",
    "local_media_port",
)
#: bytes of key and salt: RFC 4568 section 6.2, RFC 6188 section 7, RFC 7714 section 14
_KEY_BYTES = {
    "AES_CM_128_HMAC_SHA1_80": 30,
    "AES_CM_128_HMAC_SHA1_32": 30,
    "AES_192_CM_HMAC_SHA1_80": 38,
    "AES_192_CM_HMAC_SHA1_32": 38,
    "AES_CM_192_HMAC_SHA1_80": 38,
    "AES_CM_192_HMAC_SHA1_32": 38,
    "AES_256_CM_HMAC_SHA1_80": 46,
    "AES_256_CM_HMAC_SHA1_32": 46,
    "AES_CM_256_HMAC_SHA1_80": 46,
    "AES_CM_256_HMAC_SHA1_32": 46,
    "AEAD_AES_128_GCM": 28,
    "AEAD_AES_128_GCM_8": 28,
    "AEAD_AES_256_GCM": 44,
    "AEAD_AES_256_GCM_8": 44,
}
_SUITE_MAX_CHARS = 64  # the longest name of an SRTP suite has 35
_AUDIO = re.compile(r"^m=audio \d+(?:/\d+)? (\S+)", re.MULTILINE)
_INLINE = re.compile(r"inline:([A-Za-z0-9+/=]+)")


def security(leg: str, told: Mapping[str, str]) -> Security | None:
    """told: value of each of ASKED, "" for what is not set. None: the leg has no media on a wire.

    A leg of another kind than sofia and loopback is told with encrypted=None.
    """
    channel = told["channel_name"]
    kind, _, rest = channel.partition("/")
    if kind in ("", "loopback", "null", "error"):
        return None
    if kind != "sofia":
        return Security(leg, None, peer=kind)
    suite = told["rtp_has_crypto"][:_SUITE_MAX_CHARS]
    via = told["sip_full_via"].partition(" ")[0].rpartition("/")[2]
    transport = told["sip_via_protocol"] or via
    port = told["local_media_port"]
    return Security(
        leg=leg,
        encrypted=bool(suite) and _profile_is_secure(told) and _key_is_whole(suite, told),
        suite=suite,
        signalling_tls=transport.lower() == "tls" if transport else None,
        # a phone's account on either side of the call, else the profile: a trunk
        peer=told["user_name"] or told["dialed_user"] or rest.partition("/")[0],
        local=f"{told['local_media_ip']}:{port}" if port else "",
    )


def _profile_is_secure(told: Mapping[str, str]) -> bool:
    """False when the far end's last offer or answer was for clear RTP."""
    profile = _AUDIO.search(told["switch_r_sdp"])
    return profile is None or "SAVP" in profile[1].upper()


def _key_is_whole(suite: str, told: Mapping[str, str]) -> bool:
    """False for a key shorter than the suite's. DTLS has none in SDP: True then."""
    line = told["srtp_remote_audio_crypto_key"]
    if not line:
        return True
    key = _INLINE.search(line)
    try:
        length = len(base64.b64decode(key[1] + "==", validate=False)) if key else 0
    except (binascii.Error, ValueError):
        return False
    return suite in _KEY_BYTES and length >= _KEY_BYTES[suite]
