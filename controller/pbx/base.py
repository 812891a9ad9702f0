"""The contract of a driver: read this before you add a third PBX.

A driver owns one control link to one node. It is used by one `worker` (pbx/worker.py), from one
asyncio loop, for the life of one connection: after LinkLost make a new object, never connect the
same one twice. The contract suite in tests/contract/ runs against every driver, on recorded wire
bytes and on real PBXs.

What every driver guarantees
    order       `watch` yields a call's CallStarted before its CallAnswered and CallEnded; each
                exactly once per call id and link, whatever the PBX repeats.
    one call    a call is one pbx_id however many legs it has. CallStarted comes with the first
                leg, CallEnded when the last leg is gone.
    liveness    `silence_s` is the time since the node last gave a sign of life on the link. The
                driver makes the node talk (ping or heartbeat) at least every 0.5 s, so silence
                means trouble, not quiet.
    deadlines   every call into the node ends: with an answer, or with DeadlineExceeded, LinkLost,
                CommandRefused. Nothing waits for ever, nothing is sent again after a reconnect.
    hostility   bytes from the PBX are split first and decoded after, value by value. Sizes are
                capped. A bad event is counted and dropped; only broken framing costs the link.
    injection   no value with CR, LF or NUL goes out: UsageError before a byte is sent.
    phones      PhoneRegistered and PhoneGone tell of phones of the fleet by name (PHONE_NAME), in
                order; a phone has one contact a node, so a new one replaces the old. What is told
                late or not at all, `phones` mends.
    silence     `watch` ends with LinkLost when the link is gone; it never just stops.

What may fail: any method may raise LinkLost, DeadlineExceeded (the effect of the command is then
unknown) or ProtocolViolation. connect may raise LoginRefused, which is final: do not retry it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

from controller.model import (
    CallTruth,
    NodeEvent,
    NodeFacts,
    OriginateRequest,
    PhoneRegistered,
    Security,
)

PING_INTERVAL_S = 0.4
COMMAND_DEADLINE_S = 5.0
VALUE_MAX_CHARS = 128  # what of a caller's text goes on; longer is cut, not refused

#: what a phone of the fleet is called; other registrations on a node are not ours to tell of
PHONE_NAME = re.compile(r"(?!pbxctl)[a-z0-9][a-z0-9._-]{0,31}")


class Driver(ABC):
    """One control link to one node. See the module's docstring for the guarantees."""

    #: events dropped because they could not be understood, for the metric
    bad_events: int = 0

    #: how often `secure` must be asked again to notice a renegotiation: what no event tells
    recheck_s: float = 0.8

    @abstractmethod
    async def connect(self) -> NodeFacts:
        """Opens the link, logs in, subscribes. Ends within 5 s, in one way or another.

        Raises LoginRefused (final), LinkLost or DeadlineExceeded (try again later).
        """

    @abstractmethod
    def watch(self) -> AsyncIterator[Sequence[NodeEvent]]:
        """Yields what happens, in order, in batches as they arrived, until LinkLost.

        A reader that is too slow loses events, never memory: past the queue's cap the oldest are
        dropped and one EventsLost tells so; call `truth` then.
        """

    @abstractmethod
    def silence_s(self) -> float:
        """Seconds since the node's last sign of life on the link. Never blocks."""

    @abstractmethod
    async def truth(self) -> Sequence[CallTruth]:
        """The node's own list of calls, one row a call. Events go on while it is taken."""

    @abstractmethod
    async def phones(self) -> Sequence[PhoneRegistered]:
        """The node's own list of phones that are registered and answer, one row a phone.

        It may be up to 2 s behind the events.
        """

    @abstractmethod
    async def originate(self, request: OriginateRequest) -> str:
        """Starts an outbound call and returns its pbx_id once the PBX has accepted it.

        Not repeatable: after DeadlineExceeded or LinkLost the call may exist.
        """

    @abstractmethod
    async def hangup(self, pbx_id: str, cause: int = 16) -> bool:
        """Hangs up every leg of the call; cause is a Q.850 number. False: no such call."""

    @abstractmethod
    async def drain(self) -> None:
        """The PBX itself refuses new calls from trunks and phones with 503; live ones stay.

        Repeatable. Raises CommandRefused where the PBX is too old to do it natively; placement
        has stopped sending calls all the same.
        """

    @abstractmethod
    async def resume(self) -> None:
        """Takes drain back. Repeatable."""

    @abstractmethod
    async def secure(self, pbx_id: str) -> Sequence[Security]:
        """What was negotiated for the media of each leg of an answered call.

        Legs that reach no wire (Local, loopback) are left out; empty: no such call, or none but
        those. A leg of which the PBX cannot tell is there with encrypted=None.
        """

    @abstractmethod
    async def start_recording(self, pbx_id: str, path: str, rate_hz: int, on_end: str) -> str:
        """Records the call into `path`, or the files beside it that pbx/recorded_files.py names
        for this PBX; they exist. Raw s16le, the recorded leg's own voice left and what it hears
        right. The leg's id, "" for no such call. When the recording
        ends in order, the PBX writes into the .end file beside it; on_end: the script for that.

        Repeatable. Raises CommandRefused where the PBX cannot.
        """

    @abstractmethod
    async def stop_recording(self, leg: str, path: str) -> None:
        """Repeatable; a leg or a recording that is gone is no error."""

    @abstractmethod
    async def mask_recording(self, leg: str, path: str, on: bool) -> None:
        """Silence in place of both voices from now on, or no longer; the time goes on.

        Repeatable. Raises CommandRefused when the leg is not being recorded.
        """

    @abstractmethod
    async def reload(self, module: str) -> None:
        """Reloads one part of the PBX's configuration without dropping a call. Repeatable."""

    @abstractmethod
    async def close(self) -> None:
        """Closes the link. Repeatable; never raises."""
