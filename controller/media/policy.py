"""What may be clear and what must not: from the legs of a call to one ruling. Pure.

A leg's demand is that of its peer (config.MediaConfig). The call's ruling is the strictest that a
leg asks for. Nothing known counts as clear: a leg of which the PBX cannot tell is
waited for GRACE_S, then it is one in clear; a PBX that says nothing is judged by the strictest
demand there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from controller.config import Config, Demand
from controller.model import MediaVerdict, Ruling, Security

# With an answer from the PBX in some ms this leaves the hang-up well inside its second.
GRACE_S = 0.5
# Q.850 57, bearer capability not authorized: the service exists, this use of it is not allowed.
CAUSE_NOT_SECURE = 57
#: the endpoints and profiles that `pbxctl render` makes for trunks
TRUNKS = ("pbxctl", "pbxctl-trunk", "pbxctl-to-*")
#: those for security.plain_peers, which nobody else reaches
PLAIN_PEERS = "pbxctl-plain"
# each from the mildest to the strictest
_DEMANDS: tuple[Demand, ...] = ("off", "prefer", "require")
_ACTIONS = ("none", "alarm", "wait", "hangup")
_VERDICTS: tuple[MediaVerdict, ...] = ("encrypted", "unknown", "plain")


@dataclass(frozen=True)
class Demands:
    """What is demanded of each peer's media. peers: patterns, the first that fits wins. lenient:
    phones that were added with the policy `prefer`."""

    trunk: Demand
    phones: Demand
    peers: Mapping[str, Demand]
    lenient: Set[str] = frozenset()

    @classmethod
    def of(cls, config: Config) -> Demands:
        media = config.media
        unset: Demand = "off" if config.security.media == "plain" else "require"
        # What the config excepts by address and reason; a pattern of its own comes before.
        peers = {**media.peers, PLAIN_PEERS: media.peers.get(PLAIN_PEERS, "off")}
        return cls(media.trunk or unset, media.phones or unset, peers)

    def of_peer(self, peer: str) -> Demand:
        for pattern, demand in self.peers.items():
            if fnmatchcase(peer, pattern):
                return demand
        if any(fnmatchcase(peer, trunk) for trunk in TRUNKS):
            return self.trunk
        return "prefer" if self.phones == "require" and peer in self.lenient else self.phones

    @property
    def strictest(self) -> Demand:
        return max((self.trunk, self.phones, *self.peers.values()), key=_DEMANDS.index)


def judge(demands: Demands, legs: Sequence[Security] | None, waited_s: float) -> Ruling:
    """legs: as the driver told, None when it did not answer. waited_s: since the PBX was first
    unable to tell, at the earliest since the call's answer.
    """
    if legs is None:
        return _unsure(demands.strictest, "the PBX did not tell of its media", waited_s)
    if not legs:
        return Ruling("unknown", reason="none of its legs is on a wire")
    rulings = [_judge_leg(demands, leg, waited_s) for leg in legs]
    strictest_ruling = max(rulings, key=lambda ruling: _ACTIONS.index(ruling.action))
    worst: MediaVerdict = max((ruling.verdict for ruling in rulings), key=_VERDICTS.index)
    return msgspec.structs.replace(strictest_ruling, verdict=worst)


def _judge_leg(demands: Demands, leg: Security, waited_s: float) -> Ruling:
    if leg.encrypted and not leg.clear_packets:
        return Ruling("encrypted")
    demand, name = demands.of_peer(leg.peer), leg.peer or leg.leg
    if leg.clear_packets:
        return _rule("plain", demand, f"packets of {name} on the wire are not encrypted")
    if leg.encrypted is None:
        return _unsure(demand, f"the PBX cannot tell of the media of {name}", waited_s)
    return _rule("plain", demand, f"the media of {name} is not encrypted")


def _unsure(demand: Demand, what: str, waited_s: float) -> Ruling:
    if demand != "off" and waited_s < GRACE_S:
        return Ruling("unknown", "wait", reason=what)
    return _rule("unknown", demand, what)


def _rule(verdict: MediaVerdict, demand: Demand, what: str) -> Ruling:
    reason = f"{what}; policy: {demand}"
    match demand:
        case "require":
            return Ruling(verdict, "hangup", CAUSE_NOT_SECURE, reason)
        case "prefer":
            return Ruling(verdict, "alarm", reason=reason)
        case "off":
            return Ruling(verdict, reason=reason)
