"""Turns AMI messages into NodeEvents. Pure: no loop, no clock, no socket.

A call is a Linkedid, the set of channels (legs) that carry it. Facts this rests on, all seen on
Asterisk 22.10 (recordings in tests/data/ami):

    - Newchannel comes before anything else of a channel, Hangup is its last event.
    - The dialplan sets PBXCTL_PLACEMENT a moment after Newchannel; VarSet tells at once, and
      `channelvars` repeats it as ChanVariable on each later event of the channel. CallStarted
      waits PLACEMENT_WAIT_S for it at most; after that CallPlaced brings it.
    - A basic bridge gives all of its channels the oldest Linkedid among them. The channel that
      enters shows the new one; for those already inside no event tells, so bridges are followed.
      A call left without legs by this has ended (the truth no longer lists it). ConfBridge and
      holding bridges leave Linkedids alone.
    - A list shows the moment of the action: events of before may arrive after it, rows of
      channels that we saw hang up do not count.

Invariant: a pbx_id is announced once and ended once, in this order, for the life of the object.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from controller.model import (
    CallAnswered,
    CallEnded,
    CallPlaced,
    CallStarted,
    CallTruth,
    MediaChanged,
    NodeEvent,
)
from controller.pbx.ami_message import Received
from controller.pbx.base import VALUE_MAX_CHARS
from controller.pbx.quality import Quality, parse_rtpaudioqos

PLACEMENT_WAIT_S = 0.1
PLACEMENT_VARIABLE = "PBXCTL_PLACEMENT"
UP = "6"  # AST_STATE_UP
ID_MAX = 150  # AST_MAX_UNIQUEID
LEGS_MAX = 200_000
REMEMBERED = 10_000  # how many gone legs and ended calls are kept to recognise echoes of them


# gc=False and dicts of plain strings: Python's garbage collector does not track them. Tracked,
# 50,000 calls make each full collection stall the loop for 130 ms.
class Leg(msgspec.Struct, gc=False):
    linkedid: str
    channel: str  # e.g. PJSIP/trunk-0000001a
    bridge: str = ""
    up: bool = False
    tls: str = ""  # what asterisk_media learnt of it and does not change: asked once
    rtp: str = ""


class Call(msgspec.Struct, gc=False):
    since_s: float
    caller: str
    callee: str
    placement: str = ""
    legs: dict[str, None] = msgspec.field(default_factory=dict)
    announced: bool = False
    answered: bool = False
    cause: int = 0


class Recent:
    """The last ids seen, up to a cap."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def add(self, each: str) -> None:
        self._ids[each] = None
        if len(self._ids) > REMEMBERED:
            del self._ids[next(iter(self._ids))]

    def __contains__(self, each: str) -> bool:
        return each in self._ids


def placement_of(message: Received) -> str:
    """The placement id that a message of a channel brings, "" for none."""
    headers = message.headers
    if headers.get("Variable") == PLACEMENT_VARIABLE:
        return headers.get("Value", "")[:VALUE_MAX_CHARS]
    for value in message.every("ChanVariable"):
        name, _, placement = value.partition("=")
        if name == PLACEMENT_VARIABLE:
            return placement[:VALUE_MAX_CHARS]
    return ""


def ids_of(message: Received) -> tuple[str, str] | None:
    """Uniqueid and Linkedid, or None if they are not what Asterisk makes.

    A leading "/" would turn an action on the channel into one on all that match a pattern.
    """
    uniqueid = message.headers.get("Uniqueid", "")
    linkedid = message.headers.get("Linkedid", "")
    for each in (uniqueid, linkedid):
        if not each or len(each) > ID_MAX or each.startswith("/"):
            return None
    return uniqueid, linkedid


class Calls:
    """The calls of one node as its events tell. Every method returns the events that follow."""

    def __init__(self) -> None:
        self.legs: dict[str, Leg] = {}
        self.calls: dict[str, Call] = {}
        self.started = 0
        self.bad_events = 0
        self.quality = Quality()
        #: uniqueid -> placement of calls that we start ourselves
        self.expected: dict[str, str] = {}
        self._bridges: dict[str, set[str]] = {}
        self._gone = Recent()
        self._ended = Recent()
        self._absent: set[str] = set()
        self.waiting: dict[str, None] = {}  # calls not announced yet, oldest first

    def feed(self, message: Received, now_s: float) -> list[NodeEvent]:
        """Any event or list row with Uniqueid and Linkedid; others are counted as bad."""
        ids = ids_of(message)
        if ids is None:
            self.bad_events += 1
            return []
        uniqueid, linkedid = ids
        if uniqueid in self._gone:
            return []
        out: list[NodeEvent] = []
        event = message.headers["Event"]
        if uniqueid not in self.legs and (event == "Hangup" or len(self.legs) >= LEGS_MAX):
            self.bad_events += event != "Hangup"
            return []
        if event == "VarSet" and message.headers.get("Variable") == "RTPAUDIOQOS":
            if told := parse_rtpaudioqos(message.headers.get("Value", "")):
                self.quality.leg_ended(told, now_s)
            return []
        self._link(message, uniqueid, linkedid, now_s, out)
        if event == "Hangup":
            self._hangup(uniqueid, message.headers.get("Cause", ""), out)
        elif event == "BridgeEnter" and message.headers.get("BridgeType") == "basic":
            self._enter(uniqueid, message, now_s, out)
        elif event == "BridgeLeave":
            self._leave(uniqueid)
        return out

    def release(self, now_s: float) -> list[NodeEvent]:
        """Announces the calls that waited long enough for their placement."""
        out: list[NodeEvent] = []
        for pbx_id in list(self.waiting):
            if self.calls[pbx_id].since_s + PLACEMENT_WAIT_S > now_s:
                break
            self._announce(pbx_id, out)
        return out

    def listed(self, before: set[str], rows: set[str]) -> list[NodeEvent]:
        """A list is complete: `before` are the legs known when it was asked for.

        The Hangup of a leg that the list lacks is on its way; a leg that two lists in a row lack
        is gone and its Hangup was lost.
        """
        absent = before - rows
        out: list[NodeEvent] = []
        for uniqueid in absent & self._absent:
            if uniqueid in self.legs:
                self._hangup(uniqueid, "", out)
        self._absent = absent
        return out

    def _link(
        self, message: Received, uniqueid: str, linkedid: str, now_s: float, out: list[NodeEvent]
    ) -> None:
        headers = message.headers
        call = self.calls.get(linkedid)
        if call is None:
            call = self.calls[linkedid] = Call(
                now_s,
                headers.get("CallerIDNum", "")[:VALUE_MAX_CHARS].replace("<unknown>", ""),
                headers.get("Exten", "")[:VALUE_MAX_CHARS],
                self.expected.get(uniqueid, ""),
            )
            if linkedid in self._ended:
                call.announced = True  # told and ended before: the truth alone shows it again
            else:
                self.started += 1
                self.waiting[linkedid] = None
        leg = self.legs.get(uniqueid)
        if leg is None:
            self.legs[uniqueid] = Leg(linkedid, headers.get("Channel", ""))
            call.legs[uniqueid] = None
        elif leg.linkedid != linkedid:
            self._move(uniqueid, linkedid, out)
        if not call.placement and (placement := placement_of(message)):
            call.placement = placement
            if call.announced and linkedid not in self._ended:
                out.append(CallPlaced(linkedid, placement))
        if call.placement:
            self._announce(linkedid, out)
        # The call is answered when its first leg is up; without it (we came late), any leg tells.
        if (
            not call.answered
            and headers.get("ChannelState") == UP
            and (uniqueid == linkedid or linkedid not in call.legs)
        ):
            call.answered = True
            self._announce(linkedid, out)
            if linkedid not in self._ended:
                out.append(CallAnswered(linkedid))
        leg = self.legs[uniqueid]
        if not leg.up and headers.get("ChannelState") == UP:
            leg.up = True
            self._media(linkedid, out)

    def _media(self, pbx_id: str, out: list[NodeEvent]) -> None:
        """A leg came up in the call or joined it; CallAnswered says as much itself."""
        told = CallAnswered(pbx_id)
        if self.calls[pbx_id].answered and pbx_id not in self._ended and told not in out:
            out.append(MediaChanged(pbx_id))

    def _announce(self, pbx_id: str, out: list[NodeEvent]) -> None:
        call = self.calls[pbx_id]
        self.waiting.pop(pbx_id, None)
        if not call.announced:
            call.announced = True
            out.append(CallStarted(pbx_id, call.placement, call.caller, call.callee))

    def _move(self, uniqueid: str, linkedid: str, out: list[NodeEvent]) -> None:
        leg = self.legs[uniqueid]
        old, leg.linkedid = leg.linkedid, linkedid
        self.calls[linkedid].legs[uniqueid] = None
        self.calls[old].legs.pop(uniqueid, None)
        self._end_if_empty(old, out)
        if leg.up:
            self._media(linkedid, out)

    def _hangup(self, uniqueid: str, cause: str, out: list[NodeEvent]) -> None:
        self._leave(uniqueid)
        leg = self.legs.pop(uniqueid)
        self._gone.add(uniqueid)
        call = self.calls[leg.linkedid]
        call.legs.pop(uniqueid, None)
        number = int(cause) if cause.isdecimal() and len(cause) <= 3 else 0
        # The first leg's cause is what the caller was told; the last leg's serves without it.
        if uniqueid == leg.linkedid or not call.cause:
            call.cause = number if number < 128 else 0
        self._end_if_empty(leg.linkedid, out)

    def _end_if_empty(self, pbx_id: str, out: list[NodeEvent]) -> None:
        call = self.calls[pbx_id]
        if call.legs:
            return
        self._announce(pbx_id, out)
        del self.calls[pbx_id]
        if pbx_id not in self._ended:
            self._ended.add(pbx_id)
            out.append(CallEnded(pbx_id, call.cause))

    def _enter(self, uniqueid: str, message: Received, now_s: float, out: list[NodeEvent]) -> None:
        self._leave(uniqueid)
        leg = self.legs[uniqueid]
        leg.bridge = message.headers.get("BridgeUniqueid", "")[:ID_MAX]
        inside = self._bridges.setdefault(leg.bridge, set())
        for other in inside:
            if self.legs[other].linkedid != leg.linkedid:
                self._move(other, leg.linkedid, out)
        inside.add(uniqueid)

    def _leave(self, uniqueid: str) -> None:
        leg = self.legs[uniqueid]
        inside = self._bridges.get(leg.bridge)
        if inside is not None:
            inside.discard(uniqueid)
            if not inside:
                del self._bridges[leg.bridge]
        leg.bridge = ""


class Truth:
    """Groups the rows of CoreShowChannels into calls while they arrive."""

    def __init__(self) -> None:
        self.legs: set[str] = set()
        self._calls: dict[str, Call] = {}

    def add(self, row: Received) -> None:
        ids = ids_of(row)
        if ids is None:
            return
        uniqueid, linkedid = ids
        headers = row.headers
        self.legs.add(uniqueid)
        call = self._calls.get(linkedid)
        if call is None or uniqueid == linkedid:
            first = Call(
                0.0,
                headers.get("CallerIDNum", "")[:VALUE_MAX_CHARS].replace("<unknown>", ""),
                headers.get("Exten", "")[:VALUE_MAX_CHARS],
            )
            if call is not None:
                first.legs, first.placement = call.legs, call.placement
                first.answered = False
            call = self._calls[linkedid] = first
        call.legs[uniqueid] = None
        call.placement = call.placement or placement_of(row)
        if headers.get("ChannelState") == UP and (
            uniqueid == linkedid or linkedid not in call.legs
        ):
            call.answered = True

    def calls(self, known: Calls) -> Iterable[CallTruth]:
        """`known` fills in placements where channelvars is not set in manager.conf."""
        for pbx_id, call in self._calls.items():
            seen = known.calls.get(pbx_id)
            placement = call.placement or (seen.placement if seen else "")
            yield CallTruth(
                pbx_id, placement, call.caller, call.callee, call.answered, len(call.legs)
            )
