"""What a driver must bring to be put through the contract suite (test_contract.py).

A Case is one PBX, real or replayed from recorded wire bytes, seen from the far side: the trunk
that sends calls and the hand that breaks things. The suite talks to the PBX by `driver()` alone
and compares what the driver says with what the case did. To add a PBX: subclass Case and append
the class to CASES in its `*_cases.py`; a verb that the case cannot do stays out of `can`, and the
suite then skips the tests that need it and says so.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from controller.model import CallEnded, CallStarted, MediaChanged, NodeEvent
from controller.pbx.base import Driver
from tests.lab.lab import Lab
from tests.lab.offers import Offers, plain, sdes

PLACEMENT = "pl-contract-1"  # what every call of a case carries as X-Pbxctl-Placement
CALLER = "4930111"
PHONE = "7001"
DEADLINE_S = 10.0


class Case(ABC):
    """The PBX's side of the story. One case object serves one test: start, verbs, stop."""

    name: ClassVar[str]
    #: verbs beyond start/stop/driver/cut: "call" (ring, answer, end), "two_legs", "freeze",
    #: "inject", "originate", "hangup", "drain", "secure", "srtp", "wrong_password", "repeat",
    #: "register", "record"
    can: ClassVar[frozenset[str]]

    @abstractmethod
    async def start(self) -> None:
        """The PBX runs and holds no call. May raise pytest.skip with the reason."""

    @abstractmethod
    async def stop(self) -> None:
        """Nothing is left running. Repeatable."""

    @abstractmethod
    def driver(self, *, secret: str | None = None) -> Driver:
        """A new, unconnected driver for this PBX; `secret` replaces the right password."""

    @abstractmethod
    async def cut(self) -> None:
        """Every control link of this PBX closes, as when its process dies."""

    async def ring(self) -> None:
        """One call comes in from CALLER with PLACEMENT and rings. Returns when it was sent."""
        raise NotImplementedError

    async def answer(self) -> None:
        """The ringing call is answered."""
        raise NotImplementedError

    async def end(self) -> None:
        """The call is hung up, by whichever side."""
        raise NotImplementedError

    async def two_legs(self) -> None:
        """One call comes in, with PLACEMENT, that the PBX dials on to a second leg and answers."""
        raise NotImplementedError

    async def register(self, expires_s: int) -> None:
        """The phone PHONE registers by TCP, or takes that back with 0."""
        raise NotImplementedError

    async def ring_secured(self, *, then_clear: bool = False) -> None:
        """As `ring` and `answer`, with SRTP by SDES; then_clear: and a re-INVITE without keys.
        Returns once it is answered, or the re-INVITE is."""
        raise NotImplementedError

    def audio_file(self) -> str:
        """Where the PBX may record to, ending in .raw."""
        raise NotImplementedError

    async def freeze(self) -> None:
        """The PBX answers nothing more, its sockets stay open."""
        raise NotImplementedError

    async def inject(self, hostile: str) -> None:
        """Sends one of the malicious cases in `hostile` or `fatal` on the open link."""
        raise NotImplementedError

    async def repeat(self) -> None:
        """The PBX tells everything of the last ring, answer, end once more, on the open link."""
        raise NotImplementedError

    #: malicious cases that `inject` knows. Each holds exactly one honest new call, unanswered,
    #: with hostile values in it; the link must stay and the call must be told once
    hostile: ClassVar[Sequence[str]] = ()
    #: malicious cases that must end the link with ProtocolViolation or LinkLost, at once
    fatal: ClassVar[Sequence[str]] = ()
    #: an endpoint and context/exten that `originate` can reach, one that does not exist
    endpoint: ClassVar[str] = ""
    dead_endpoint: ClassVar[str] = ""
    context: ClassVar[str] = ""
    exten: ClassVar[str] = ""


def secured_call(lab: Lab, target: str, number: str, then_clear: bool) -> None:
    """What `ring_secured` says, by SIPp."""
    then = plain() if then_clear else None
    caller = Offers(lab, target, number, sdes(), then=then, then_after_s=0.3, hold_s=20)
    caller.until("re-invited" if then_clear else "answered")


class Watcher:
    """Collects what `driver.watch()` yields, in order, and the error that ended it."""

    def __init__(self, driver: Driver) -> None:
        self.events: list[NodeEvent] = []
        self.ended: BaseException | None = None
        self._driver = driver
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async for batch in self._driver.watch():
                self.events.extend(batch)
        except Exception as error:  # whatever ended it is what the test wants to see
            self.ended = error

    @property
    def calls(self) -> list[NodeEvent]:
        """What begins, changes and ends calls, without load samples and news of media."""
        return [e for e in self.events if hasattr(e, "pbx_id") and not isinstance(e, MediaChanged)]

    def started(self) -> list[CallStarted]:
        return [e for e in self.events if isinstance(e, CallStarted)]

    def ended_calls(self) -> list[CallEnded]:
        return [e for e in self.events if isinstance(e, CallEnded)]

    async def until(self, what: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
        await until(what, deadline_s, lambda: f"events: {self.events!r}, ended: {self.ended!r}")

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def until(
    what: Callable[[], object], deadline_s: float = DEADLINE_S, tell: Callable[[], str] = str
) -> None:
    """Polls `what` until it is true; fails with `tell()` when the deadline passes."""
    end = time.monotonic() + deadline_s
    while not what():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s; {tell()}")
        await asyncio.sleep(0.01)
