"""What may be clear and what must not: from the legs of a call to one ruling. Pure.

A leg's policy is that of its peer (config.MediaConfig). The call's ruling is the strictest that a
leg asks for. Nothing known counts as clear: under `require` a leg of which the PBX cannot tell is
waited for GRACE_S, then the call is hung up; no leg at all is judged by the strictest policy there
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import msgspec

from controller.config import MediaConfig, Demand
from controller.model import MediaVerdict, Ruling, Security

# With an answer from the PBX in some ms this leaves the hang-up well inside its second.
GRACE_S = 0.5
# Q.850 57, bearer capability not authorized: the service exists, this use of it is not allowed.
CAUSE_NOT_SECURE = 57
#: the endpoints and profiles that `pbxctl render` makes for trunks
TRUNKS = ("pbxctl", "pbxctl-trunk", "pbxctl-to-*")
# each from the mildest to the strictest
_POLICIES = ("off", "prefer", "require")
_ACTIONS = ("none", "alarm", "wait", "hangup")
_VERDICTS: tuple[MediaVerdict, ...] = ("encrypted", "unknown", "plain")


def policy_of(media: MediaConfig, peer: str) -> Demand:
    """The first pattern of media.peers that fits, else that of trunks or of phones."""
    for pattern, policy in media.peers.items():
        if fnmatchcase(peer, pattern):
            return policy
    return media.trunk if any(fnmatchcase(peer, trunk) for trunk in TRUNKS) else media.phones


def judges(media: MediaConfig) -> bool:
    """False when everything is off: then no call need be looked at."""
    return any(p != "off" for p in (media.trunk, media.phones, *media.peers.values()))


def judge(media: MediaConfig, legs: Sequence[Security] | None, waited_s: float) -> Ruling:
    """legs: as the driver told, None when it did not answer. waited_s: since the call's answer."""
    if legs is None:
        strictest = max((media.trunk, media.phones, *media.peers.values()), key=_POLICIES.index)
        return _unsure(strictest, "the PBX did not tell of its media", waited_s)
    if not legs:
        return Ruling("unknown", reason="none of its legs is on a wire")
    rulings = [_judge_leg(media, leg, waited_s) for leg in legs]
    strictest_ruling = max(rulings, key=lambda ruling: _ACTIONS.index(ruling.action))
    worst: MediaVerdict = max((ruling.verdict for ruling in rulings), key=_VERDICTS.index)
    return msgspec.structs.replace(strictest_ruling, verdict=worst)


def _judge_leg(media: MediaConfig, leg: Security, waited_s: float) -> Ruling:
    if leg.encrypted:
        return Ruling("encrypted")
    policy, name = policy_of(media, leg.peer), leg.peer or leg.leg
    if leg.encrypted is None:
        return _unsure(policy, f"the PBX cannot tell of the media of {name}", waited_s)
    return _rule("plain", policy, f"the media of {name} is not encrypted")


def _unsure(policy: Demand, what: str, waited_s: float) -> Ruling:
    if policy == "require" and waited_s < GRACE_S:
        return Ruling("unknown", "wait", reason=what)
    return _rule("unknown", policy, what)


def _rule(verdict: MediaVerdict, policy: Demand, what: str) -> Ruling:
    reason = f"{what}, policy {policy}"
    match policy:
        case "require":
            return Ruling(verdict, "hangup", CAUSE_NOT_SECURE, reason)
        case "prefer":
            return Ruling(verdict, "alarm", reason=reason)
        case "off":
            return Ruling(verdict, reason=reason)
