"""Registrations as FreeSWITCH tells of them. Pure.

sofia::register comes with each REGISTER that was let in, renewals too; sofia::unregister and
sofia::expire end one. `show registrations` is the list (mod_sofia.c, switch_core_sqldb.c); it has
no user agent, which the event has, so the picture keeps the event's.
"""

from __future__ import annotations

import re

import msgspec

from controller.errors import ProtocolViolation
from controller.model import PhoneGone, PhoneRegistered
from controller.pbx.base import PHONE_NAME, VALUE_MAX_CHARS
from controller.pbx.esl_frames import EslEvent

#: by so much longer than the phone asked for FreeSWITCH keeps a registration in its list
LIST_GRACE_S = 60
_URI = re.compile(r"sips?:[^<>\s\"]{1,500}")
_SECONDS = re.compile(r"[0-9]{1,11}")
_TRANSPORT = re.compile(r"(?:;transport=|fs_path=.{0,200}transport%3D)([a-z]{2,4})", re.IGNORECASE)


class _Row(msgspec.Struct, frozen=True):
    reg_user: str
    url: str = ""
    expires: str = ""
    network_proto: str = ""


class _List(msgspec.Struct, frozen=True):
    row_count: int
    rows: list[_Row] = []


def told(event: EslEvent) -> list[PhoneRegistered | PhoneGone]:
    """What a CUSTOM event says of a phone; nothing for other subclasses and strangers."""
    kind = event.get("Event-Subclass")
    # whom the registration is for: the profile demands that it is who logged in, too
    name = event.get("from-user") or event.get("user")
    if not PHONE_NAME.fullmatch(name):
        return []
    uri = contact(event.get("contact"))
    if kind in ("sofia::unregister", "sofia::expire"):
        return [PhoneGone(name, uri)]
    if kind != "sofia::register" or not uri:
        return []
    expires = event.get("expires")
    return [
        PhoneRegistered(
            name,
            uri,
            float(expires) if _SECONDS.fullmatch(expires) else 0.0,
            event.get("user-agent")[:VALUE_MAX_CHARS],
            _transport(event.get("contact")),
        )
    ]


def listed(output: str, now_s: float) -> list[PhoneRegistered]:
    """`show registrations as json`; now_s: seconds since 1970. ProtocolViolation: not that."""
    try:
        rows = msgspec.json.decode(output, type=_List).rows
    except msgspec.DecodeError as error:
        raise ProtocolViolation(f"the list of phones cannot be read: {error}") from None
    found: dict[str, PhoneRegistered] = {}
    for row in rows:
        uri = contact(row.url)
        if not PHONE_NAME.fullmatch(row.reg_user) or not uri or not _SECONDS.fullmatch(row.expires):
            continue
        left_s = int(row.expires) - LIST_GRACE_S - now_s
        before = found.get(row.reg_user)
        if left_s > 0 and (before is None or before.expires_s < left_s):
            found[row.reg_user] = PhoneRegistered(
                row.reg_user, uri, left_s, "", row.network_proto[:4].lower()
            )
    return list(found.values())


def contact(text: str) -> str:
    """The URI alone: FreeSWITCH shows `"name" <sip:…>`, or `sofia/PROFILE/sip:…` in its list."""
    uri = _URI.search(text)
    return uri[0].partition(";fs_")[0][:VALUE_MAX_CHARS] if uri else ""


def _transport(text: str) -> str:
    found = _TRANSPORT.search(text)
    return found[1].lower() if found else "udp"
