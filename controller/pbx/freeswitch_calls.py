"""FreeSWITCH's channel events, turned into calls; no input or output here.

FreeSWITCH knows legs. A leg's Channel-Call-UUID is its own Unique-ID until it is dialled by or
bridged to another leg, whose id it then carries; a transfer gives it back its own, and
CHANNEL_DESTROY of a B leg always does (seen on 1.11). So the header says which call a leg joins and
nothing else: from then on this map says where it belongs.

    pbx_id     the Channel-Call-UUID of the call's first leg, for the life of the call.
    joining    a new leg joins the call of the leg that its Channel-Call-UUID names.
    merging    CHANNEL_BRIDGE of legs of two calls (a queue connects its agent, an attended
               transfer) makes them one: the placed call goes on, else the older; of the other,
               which has no leg left, a CallEnded is told.
    splitting  legs that part after a transfer stay one call until the last is gone. Two legs that
               live on apart are so counted once: rare, and short of a second counting.
    loopback   the two ends of a loopback channel are two calls to FreeSWITCH, and to us.

When CallStarted is told: with the first leg, except that a leg whose INVITE carried
X-Pbxctl-Placement waits until the dialplan has said that it believes it, by the channel variable
pbxctl_placement: that comes with the leg's next event, or `placed` brings it. CallPlaced tells of
one that comes later still. The header alone is never believed, for a phone can send it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from controller.model import (
    CallAnswered,
    CallEnded,
    CallPlaced,
    CallStarted,
    CallTruth,
    LoadSample,
    MediaChanged,
    NodeEvent,
)
from controller.pbx.base import VALUE_MAX_CHARS
from controller.pbx.esl_frames import EslEvent
from controller.pbx.quality import MES_OF_MOS, LegQuality, Quality

EVENTS = (
    "CHANNEL_CREATE CHANNEL_PROGRESS CHANNEL_PROGRESS_MEDIA CHANNEL_ANSWER CHANNEL_BRIDGE "
    "CHANNEL_UUID CHANNEL_DESTROY HEARTBEAT BACKGROUND_JOB "
    # subclasses of CUSTOM, which must come last
    "CUSTOM sofia::register sofia::unregister sofia::expire sofia::reinvite"
)
_ENDED_KEPT = 20_000  # ids of legs gone, so that nothing repeated brings them back
_PLACEMENT = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)


@dataclass
class _Call:
    pbx_id: str
    age: int  # counts up: the lower, the older
    caller: str = ""
    callee: str = ""
    placement: str = ""
    told: bool = False  # CallStarted is out
    answered: bool = False
    first: str = ""  # the leg whose end gives the call its cause
    cause: int = 0
    legs: list[str] = field(default_factory=list)  # in the order they came; legs[0] answers


@dataclass(frozen=True)
class ListedLeg:
    """One leg of FreeSWITCH's list that the map did not know, with what was asked about it."""

    leg: str
    call_uuid: str
    placement: str
    caller: str
    callee: str
    answered: bool


class Calls:
    """The calls of one node, as seen on one link. Not thread-safe: one thread's alone."""

    def __init__(self) -> None:
        self._by_leg: dict[str, _Call] = {}
        self._calls: dict[str, _Call] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._born = 0
        self._started_since_sample = 0
        self._sampled_at_s: float | None = None
        self._quality = Quality()

    def take(self, event: EslEvent) -> list[NodeEvent]:
        """What one channel event means. Unknown and repeated events mean nothing."""
        leg = event.get("Unique-ID")
        if not leg:
            return []
        name = event.get("Event-Name")
        if name == "CHANNEL_DESTROY":
            received = _number(event.get("variable_rtp_audio_in_packet_count"))
            if received:
                self._quality.leg_ended(_quality(event, received), self._sampled_at_s or 0.0)
            return list(self._leave(leg, _cause(event)))
        if name == "CUSTOM":  # sofia::reinvite carries nothing but the leg
            return self._media(self._by_leg.get(leg))
        if name == "CHANNEL_UUID":
            self._rename(event.get("Old-Unique-ID"), leg)
            return []
        out: list[NodeEvent] = []
        call = self._by_leg.get(leg)
        if call is None:
            if leg in self._gone:
                return []
            call = self._join(
                leg,
                event.get("Channel-Call-UUID"),
                event.get("Caller-Caller-ID-Number"),
                event.get("Caller-Destination-Number"),
            )
        out += self._place(call, event.get("variable_pbxctl_placement"))
        waits = name == "CHANNEL_CREATE" and event.get("variable_sip_h_X-Pbxctl-Placement")
        if call.placement or not waits or len(call.legs) > 1:
            out += self._tell(call)
        before, legs = call, len(call.legs)
        if name == "CHANNEL_BRIDGE":
            out += self._merge(event.get("Bridge-A-Unique-ID"), event.get("Bridge-B-Unique-ID"))
            call = self._by_leg[leg]
        if event.get("Answer-State") == "answered" and leg == call.legs[0]:
            out += self._answer(call)
        joined = name == "CHANNEL_BRIDGE" and (call is not before or len(call.legs) != legs)
        if (joined or name == "CHANNEL_ANSWER") and CallAnswered(call.pbx_id) not in out:
            out += self._media(call)
        return out

    def load(self, event: EslEvent, now_s: float) -> LoadSample:
        """A HEARTBEAT as a load sample. now_s: any steady clock.

        Max-Sessions counts legs, and a bridged call has two: hence calls_max is half of it.
        Session-Per-Sec-Last counts legs too, so arrivals are our own count of calls.
        """
        since_s = now_s - self._sampled_at_s if self._sampled_at_s is not None else None
        arrivals = self._started_since_sample / since_s if since_s else None
        self._started_since_sample, self._sampled_at_s = 0, now_s
        most = _number(event.get("Max-Sessions"))
        count = _number(event.get("Session-Count"))
        idle = _number(event.get("Idle-CPU"))
        return LoadSample(
            channels=None if count is None else int(count),
            channels_max=None if most is None else int(most),
            calls_max=None if most is None else int(most) // 2,
            arrivals_per_s=arrivals,
            cpu=None if idle is None else min(1.0, max(0.0, 1 - idle / 100)),
            loss=self._quality.loss(now_s),
            mes=self._quality.mes(now_s),
        )

    def waits(self, leg: str) -> bool:
        """True while the CallStarted of this leg's call waits for the dialplan's word."""
        call = self._by_leg.get(leg)
        return call is not None and not call.told

    def placed(self, leg: str, placement: str) -> list[NodeEvent]:
        """The word, maybe "", for a leg that `waits`: the wait is over."""
        call = self._by_leg.get(leg)
        if call is None:
            return []
        return [*self._place(call, placement), *self._tell(call)]

    def legs(self) -> list[str]:
        return list(self._by_leg)

    def legs_of(self, pbx_id: str) -> list[str]:
        call = self._calls.get(pbx_id)
        return list(call.legs) if call is not None else []

    def gone(self, leg: str) -> bool:
        return leg in self._gone

    def correct(self, found: Iterable[ListedLeg], lost: Iterable[str]) -> list[NodeEvent]:
        """Brings the map in line with FreeSWITCH's list, oldest leg first.

        found: legs alive that the map did not know. lost: legs of the map that are no more.
        """
        out: list[NodeEvent] = []
        for leg in lost:
            out += self._leave(leg, 0)
        for row in found:
            if row.leg in self._by_leg or row.leg in self._gone:
                continue  # its own event came while we asked
            call = self._join(row.leg, row.call_uuid, row.caller, row.callee)
            out += self._place(call, row.placement)
            out += self._tell(call)
            if row.answered and call.legs[0] == row.leg:
                out += self._answer(call)
        return out

    def truth(self) -> list[CallTruth]:
        return [
            CallTruth(
                pbx_id=call.pbx_id,
                placement=call.placement,
                caller=call.caller,
                callee=call.callee,
                answered=call.answered,
                legs=len(call.legs),
            )
            for call in self._calls.values()
        ]

    def _join(self, leg: str, call_uuid: str, caller: str, callee: str) -> _Call:
        call = self._by_leg.get(call_uuid) or self._calls.get(call_uuid)
        if call is None:
            # A's own events were missed or come later: the id is A's all the same, so that A joins.
            pbx_id = call_uuid if call_uuid and call_uuid not in self._gone else leg
            self._born += 1
            call = _Call(pbx_id, self._born, caller[:VALUE_MAX_CHARS], callee[:VALUE_MAX_CHARS])
            self._calls[pbx_id] = call
        call.first = call.first or leg
        call.legs.append(leg)
        self._by_leg[leg] = call
        return call

    def _leave(self, leg: str, cause: int) -> Iterator[NodeEvent]:
        self._bury(leg)
        call = self._by_leg.pop(leg, None)
        if call is None:
            return
        if leg == call.first or not call.cause:
            call.cause = cause
        call.legs.remove(leg)
        if not call.legs:
            yield from self._end(call)

    def _end(self, call: _Call) -> Iterator[NodeEvent]:
        yield from self._tell(call)
        del self._calls[call.pbx_id]
        self._bury(call.pbx_id)
        yield CallEnded(call.pbx_id, call.cause)

    def _bury(self, leg: str) -> None:
        self._gone[leg] = None
        if len(self._gone) > _ENDED_KEPT:
            self._gone.popitem(last=False)

    def _tell(self, call: _Call) -> Iterator[NodeEvent]:
        if not call.told:
            call.told = True
            self._started_since_sample += 1
            yield CallStarted(call.pbx_id, call.placement, call.caller, call.callee)

    def _place(self, call: _Call, placement: str) -> Iterator[NodeEvent]:
        if not call.placement and believed(placement):
            call.placement = placement
            if call.told:
                yield CallPlaced(call.pbx_id, placement)

    def _answer(self, call: _Call) -> Iterator[NodeEvent]:
        if not call.answered:
            call.answered = True
            yield from self._tell(call)
            yield CallAnswered(call.pbx_id)

    @staticmethod
    def _media(call: _Call | None) -> list[NodeEvent]:
        return [MediaChanged(call.pbx_id)] if call is not None and call.answered else []

    def _merge(self, leg_a: str, leg_b: str) -> Iterator[NodeEvent]:
        a, b = self._by_leg.get(leg_a), self._by_leg.get(leg_b)
        if a is None or b is None or a is b:
            return
        keep, drop = sorted((a, b), key=lambda call: (not call.placement, call.age))
        moved = leg_b if keep is a else leg_a
        drop.legs.remove(moved)
        keep.legs.append(moved)
        self._by_leg[moved] = keep
        if not drop.legs:
            yield from self._end(drop)

    def _rename(self, old: str, new: str) -> None:
        """CHANNEL_UUID: the leg has another Unique-ID; the call keeps its id."""
        call = self._by_leg.pop(old, None)
        if call is not None:
            call.legs[call.legs.index(old)] = new
            call.first = new if call.first == old else call.first
            self._by_leg[new] = call


def believed(placement: str) -> str:
    """The placement if it has the form of ours, else "": it goes into Redis and SIP headers."""
    return placement if _PLACEMENT.fullmatch(placement) else ""


def _quality(event: EslEvent, received: float) -> LegQuality:
    """What FreeSWITCH tells of a leg that ends.

    It has no count of lost packets. Flaws count a gap more than once, skips are reads that found no
    packet, some of them before the first one: of 350 packets with 55 dropped on the way it told 148
    flaws and 58 skips, with none dropped 0 and 3. Jitter is told as a variance at its worst alone,
    which is no mean.
    """
    flaws = _number(event.get("variable_rtp_audio_in_flaw_total")) or 0
    skips = _number(event.get("variable_rtp_audio_in_skip_packet_count")) or flaws
    mos = _number(event.get("variable_rtp_audio_in_mos"))
    return LegQuality(received, min(flaws, skips), mes=None if mos is None else mos * MES_OF_MOS)


def _cause(event: EslEvent) -> int:
    text = event.get("variable_hangup_cause_q850")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else 0


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None  # neither inf nor nan passes
