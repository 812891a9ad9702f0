"""A node's file of phones, as its PBX reads it: a pure function of what was published.

`pbxctl render` writes an empty one to begin with; from then on the node's agent keeps it in step.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from controller.config import Config, split_address
from controller.fleet.phones import PublishedPhone
from controller.model import Kind
from controller.render.templates import Label, fill

LABEL_MAX_CHARS = 40
_NAMES = re.compile(
    r'^\[([a-z0-9._-]+)\]\(pbxctl-phone\)$|<user id="([a-z0-9._-]+)">', re.MULTILINE
)
#: beside letters, digits and their marks; all else means something to some PBX or phone
_LABEL_SIGNS = frozenset(" .-_@+")


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
        "register_s": config.phones.register_s,
        "sip_host": split_address(config.nodes[node].sip)[0],
        "versions": Label(", ".join(f"{r} {v}" for r, v in sorted(versions.items())) or "none"),
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


def phones_in(text: str) -> frozenset[str]:
    """The names of the phones in a file of ours."""
    return frozenset(name for pair in _NAMES.findall(text) for name in pair if name)


def caller_name(display: str) -> str:
    """What of a display name goes over SIP: letters, digits and few signs, 40 characters at most.

    A name is hostile text on its way into a PBX's file, a SIP header and other phones' screens.
    """
    kept = "".join(c if _shown(c) else " " for c in unicodedata.normalize("NFC", display))
    return " ".join(kept.split())[:LABEL_MAX_CHARS].strip()


def _shown(char: str) -> bool:
    return char in _LABEL_SIGNS or unicodedata.category(char)[0] in "LN"
