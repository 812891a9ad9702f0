"""The words of DESIGN.md as types: what every part of pbxctl may know.

All are immutable and travel as JSON by msgspec. Durations carry their unit in the name;
points in time are milliseconds of Redis TIME, never of a client's clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec


class Kind(StrEnum):
    ASTERISK = "asterisk"
    FREESWITCH = "freeswitch"


class NodeState(StrEnum):
    """What a node is to placement. Only ACTIVE and JOINING nodes get calls.

    JOINING: linked and in step, its share still ramping up. DRAINING: keeps its calls, gets no
    new one. STANDBY: warm and empty, waits for the scaler. EJECTED: taken out by the operator or
    the breaker. DOWN: no link, silent, or not yet in step.
    """

    JOINING = "joining"
    ACTIVE = "active"
    DRAINING = "draining"
    STANDBY = "standby"
    EJECTED = "ejected"
    DOWN = "down"


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class MediaPolicy(StrEnum):
    """What happens to a call whose media is not encrypted: hung up, or passed with an alarm."""

    REQUIRE = "require"
    PREFER = "prefer"


class CallStarted(msgspec.Struct, frozen=True, tag=True):
    """A call has its first leg on the node.

    pbx_id: Asterisk Linkedid or FreeSWITCH Channel-Call-UUID, unique on its node.
    placement: what a trunk peer sent as X-Pbxctl-Placement, "" for a call we did not place.
    caller, callee: whatever SIP carried; hostile text, at most 128 characters.
    """

    pbx_id: str
    placement: str = ""
    caller: str = ""
    callee: str = ""


class CallPlaced(msgspec.Struct, frozen=True, tag=True):
    """The placement of a call whose CallStarted had to go without: its dialplan set it late."""

    pbx_id: str
    placement: str


class CallAnswered(msgspec.Struct, frozen=True, tag=True):
    pbx_id: str


class MediaChanged(msgspec.Struct, frozen=True, tag=True):
    """A leg of an answered call was answered, joined or renegotiated: ask `secure` again."""

    pbx_id: str


class CallEnded(msgspec.Struct, frozen=True, tag=True):
    """The call's last leg is gone. cause: Q.850 number, 0 when the PBX told none."""

    pbx_id: str
    cause: int = 0


class LoadSample(msgspec.Struct, frozen=True, tag=True):
    """What the node says of itself. None: the PBX does not tell.

    channels: legs up now. channels_max: the PBX's own limit. cpu: busy share of the host, 0 to 1.
    calls_max: the PBX's own limit of calls (CoreMaxCalls, Max-Sessions / 2).
    arrivals_per_s: new calls in the last second. loss: share of RTP packets lost, 0 to 1.
    mes: the media experience score, 20 (nothing to understand) to 90: 20 times the E-model's MOS.
    """

    channels: int | None = None
    channels_max: int | None = None
    calls_max: int | None = None
    arrivals_per_s: float | None = None
    cpu: float | None = None
    loss: float | None = None
    jitter_ms: float | None = None
    mes: float | None = None


class EventsLost(msgspec.Struct, frozen=True, tag=True):
    """The PBX or our queue dropped events: the live set needs the truth again, now."""

    count: int
    reason: str


class PhoneRegistered(msgspec.Struct, frozen=True, tag=True):
    """A phone is registered on the node, or renewed that. Hostile text, at most 128 characters.

    contact: its URI. expires_s: how long from now; 0 when the event does not tell, then `phones`
    of the driver does. transport: udp, tcp, tls, or "" when not told.
    """

    name: str
    contact: str
    expires_s: float = 0.0
    user_agent: str = ""
    transport: str = ""


class PhoneGone(msgspec.Struct, frozen=True, tag=True):
    """The phone's registration under this contact ended, or the phone does not answer there."""

    name: str
    contact: str


NodeEvent = (
    CallStarted
    | CallPlaced
    | CallAnswered
    | MediaChanged
    | CallEnded
    | LoadSample
    | EventsLost
    | PhoneRegistered
    | PhoneGone
)


class CallTruth(msgspec.Struct, frozen=True):
    """One call as the node's own list shows it."""

    pbx_id: str
    placement: str = ""
    caller: str = ""
    callee: str = ""
    answered: bool = False
    legs: int = 1


class NodeFacts(msgspec.Struct, frozen=True):
    """What a node told at login. version: as "22.10.0" or "1.11.3"; uptime_s since PBX start."""

    kind: Kind
    version: str
    uptime_s: float
    calls_max: int | None = None
    channels_max: int | None = None


class Security(msgspec.Struct, frozen=True):
    """What was negotiated for one leg's media. Holds no key and must never.

    encrypted: None when the PBX could not tell. suite: "" when the PBX does not tell it, as
    Asterisk never does. peer: the PJSIP endpoint or the FreeSWITCH profile that the leg belongs
    to. local: host:port of its RTP on the node, "" when not told. clear_packets: the node's agent
    saw clear packets there, whatever the PBX says.
    """

    leg: str
    encrypted: bool | None
    suite: str = ""
    signalling_tls: bool | None = None
    peer: str = ""
    local: str = ""
    clear_packets: bool = False


MediaVerdict = Literal["encrypted", "unknown", "plain"]


class Ruling(msgspec.Struct, frozen=True):
    """What follows from the legs of a call (media/policy.py).

    action: wait means ask again, an answer is due. cause: Q.850, for hangup. reason: for people.
    """

    verdict: MediaVerdict
    action: Literal["none", "alarm", "wait", "hangup"] = "none"
    cause: int = 0
    reason: str = ""


class OriginateRequest(msgspec.Struct, frozen=True):
    """An outbound call on one node: rings `endpoint`, then runs `exten`@`context` for it.

    endpoint: in the PBX's own dial syntax (PJSIP/…, sofia/…), made by us, never by a caller.
    placement: the reservation this call fills.
    """

    endpoint: str
    context: str
    exten: str
    placement: str
    caller: str = ""
    timeout_s: float = 30.0


class Placed(msgspec.Struct, frozen=True, tag="place"):
    """Send the call to `address` (host:port) with X-Pbxctl-Placement: `placement`."""

    node: str
    address: str
    placement: str
    reason: str
    service: str = ""


class Rejected(msgspec.Struct, frozen=True, tag="reject"):
    """Answer the caller with SIP `cause`, and Retry-After when retry_after_s > 0.

    blind: the fleet's picture is empty or late, no node is full; whoever has a list of nodes of
    his own does better to use it.
    """

    cause: int
    retry_after_s: int
    reason: str
    blind: bool = False


Verdict = Placed | Rejected
Want = Literal["active", "draining", "standby", "ejected"]
