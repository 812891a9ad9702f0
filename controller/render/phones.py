"""A node's file of phones, as its PBX reads it: a pure function of what was published.

`pbxctl render` writes an empty one to begin with; from then on the node's agent keeps it in step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from controller.config import Config, split_address
from controller.fleet.phones import PublishedPhone
from controller.media.phones import caller_name
from controller.model import Kind
from controller.render.templates import Label, fill

#: of FreeSWITCH's rtp_secure_media: the strongest first, and no call without
SRTP_SUITES = "AEAD_AES_256_GCM:AES_256_CM_HMAC_SHA1_80:AES_CM_128_HMAC_SHA1_80"
SRTP_MANDATORY = f"mandatory:{SRTP_SUITES}"

_NAMES = re.compile(
    r'^\[([a-z0-9._-]+)\]\(pbxctl-phone\)$|<user id="([a-z0-9._-]+)">', re.MULTILINE
)


def phones_path(config: Config, node: str) -> PurePosixPath:
    """The file's name in the node's folder."""
    kind = config.nodes[node].kind
    return PurePosixPath("pbxctl-phones.conf" if kind is Kind.ASTERISK else "pbxctl-phones.xml")


def phones_file(
    config: Config, node: str, phones: Sequence[PublishedPhone], versions: Mapping[str, int]
) -> str:
    """The file's text. phones: all that the node holds; versions: of their regions."""
    values = {
        "realm": config.realm,
        "tls": config.security.signalling == "tls",
        "media": config.security.media,
        "srtp_required": SRTP_MANDATORY,
        "srtp_preferred": f"optional:{SRTP_SUITES}",
        "register_s": config.phones.register_s,
        "sip_host": split_address(config.nodes[node].sip)[0],
        "versions": Label(versions_label(versions)),
        "phones": [
            {
                "name": phone.name,
                "label": Label(caller_name(phone.display) or phone.name),
                "policy": phone.policy,
                "md5": phone.md5,
                "sha256": phone.sha256,
            }
            for phone in sorted(phones, key=lambda phone: phone.name)
        ],
    }
    kind = (
        "asterisk/pbxctl-phones.conf"
        if config.nodes[node].kind is Kind.ASTERISK
        else ("freeswitch/pbxctl-phones.xml")
    )
    return fill(f"{kind}.j2", values)


def versions_label(versions: Mapping[str, int]) -> str:
    """As the head of the file has them."""
    return ", ".join(f"{r} {v}" for r, v in sorted(versions.items())) or "none"


def phones_in(text: str) -> frozenset[str]:
    """The names of the phones in a file of ours."""
    return frozenset(name for pair in _NAMES.findall(text) for name in pair if name)
