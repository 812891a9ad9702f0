"""Registrations as Asterisk tells of them. Pure.

ContactStatus comes when a contact is made, answers OPTIONS or no longer does, and when it goes; it
has neither expiry nor user agent, and a renewal is told only as "Updated". PJSIPShowContacts has
all of it. Seen on Asterisk 22.10: NonQualified or Created at a new contact, Reachable, Unreachable,
Unknown while a first OPTIONS is out, Removed.
"""

from __future__ import annotations

import re

from controller.model import PhoneGone, PhoneRegistered
from controller.pbx.ami_message import Received
from controller.pbx.base import PHONE_NAME, VALUE_MAX_CHARS

_GONE = frozenset(("Removed", "Unreachable"))
_TRANSPORT = re.compile(r";transport=([a-z]{2,4})(?:;|$)", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,11}")


def status(event: Received) -> PhoneRegistered | PhoneGone | None:
    """What a ContactStatus says; None for a static contact (a trunk's) or one without a name."""
    headers = event.headers
    name, uri = headers.get("AOR", ""), headers.get("URI", "")
    if not PHONE_NAME.fullmatch(name) or name != headers.get("EndpointName") or not uri:
        return None
    if headers.get("ContactStatus") in _GONE:
        return PhoneGone(name, uri[:VALUE_MAX_CHARS])
    return PhoneRegistered(name, uri[:VALUE_MAX_CHARS], transport=_transport(uri))


def listed(row: Received, now_s: float) -> PhoneRegistered | None:
    """A row of PJSIPShowContacts; now_s: seconds since 1970, by a clock like the node's."""
    headers = row.headers
    name, uri = headers.get("Endpoint", ""), headers.get("Uri", "")
    ends = headers.get("RegExpire") or headers.get("ExpirationTime", "")
    if not PHONE_NAME.fullmatch(name) or not uri or not _SECONDS.fullmatch(ends):
        return None
    # 0 is a static contact: no phone logged in there
    left_s = int(ends) - now_s
    if int(ends) == 0 or left_s <= 0 or headers.get("Status") in _GONE:
        return None
    return PhoneRegistered(
        name,
        uri[:VALUE_MAX_CHARS],
        left_s,
        headers.get("UserAgent", "")[:VALUE_MAX_CHARS],
        _transport(uri),
    )


def _transport(uri: str) -> str:
    found = _TRANSPORT.search(uri)
    return found[1].lower() if found else "udp"
