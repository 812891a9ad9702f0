"""The set of a node's calls, kept by events and mended by the node's own list. Pure.

The list and the events reach us by different ways inside the PBX: a call can be in the list though
its end was already told (FreeSWITCH fills its list from a queue), or be missing though its
start was. So an event within `GRACE_S` before the list was asked for, or after, outweighs it;
everything older yields to the list. What grace hides is seen by the next comparison.
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
    NodeEvent,
)

GRACE_S = 2.0


class LiveSet:
    """Calls by pbx_id. Times are the caller's monotonic seconds."""

    def __init__(self) -> None:
        self.calls: dict[str, CallTruth] = {}
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}

    def apply(self, event: NodeEvent, now_s: float) -> None:
        match event:
            case CallStarted():
                if event.pbx_id not in self.calls:
                    self.calls[event.pbx_id] = CallTruth(
                        event.pbx_id, event.placement, event.caller, event.callee
                    )
                    self._started[event.pbx_id] = now_s
            case CallPlaced() if call := self.calls.get(event.pbx_id):
                self.calls[event.pbx_id] = msgspec.structs.replace(call, placement=event.placement)
            case CallAnswered() if call := self.calls.get(event.pbx_id):
                self.calls[event.pbx_id] = msgspec.structs.replace(call, answered=True)
            case CallEnded():
                self.calls.pop(event.pbx_id, None)
                self._started.pop(event.pbx_id, None)
                self._ended[event.pbx_id] = now_s

    def mend(self, listed: Iterable[CallTruth], asked_s: float) -> int:
        """Takes over the node's list, asked for at `asked_s`; by how many calls we erred."""
        since = asked_s - GRACE_S
        self._started = {i: t for i, t in self._started.items() if t >= since}
        self._ended = {i: t for i, t in self._ended.items() if t >= since}
        truth = {c.pbx_id: c for c in listed if c.pbx_id not in self._ended}
        for pbx_id, call in self.calls.items():
            if pbx_id in truth:
                # The placement may be known from an event and no longer be in the list.
                told = truth[pbx_id]
                truth[pbx_id] = msgspec.structs.replace(
                    told,
                    placement=told.placement or call.placement,
                    answered=told.answered or call.answered,
                )
            elif pbx_id in self._started:
                truth[pbx_id] = call
        erred = len(truth.keys() ^ self.calls.keys())
        self.calls = truth
        return erred
