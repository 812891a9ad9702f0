"""What a person wants of a call's recording, on its way from the gate to the agent of the node.

The functions of lua/redis/60_recordings.lua. The agent makes the files and tells the PBX, by its
driver, what to do with them.
"""

from __future__ import annotations

import uuid
from typing import Literal

import msgspec

from controller.fleet.commands import CommandResult, decode_result
from controller.fleet.functions import Fleet

Verb = Literal["start", "stop", "pause", "resume"]


class Wanted(msgspec.Struct, frozen=True):
    """pbx_id: the call as its PBX names it; call: its SIP Call-ID, "" where unknown.

    caller, callee: hostile text. reason: of who asks, for the recording's particulars.
    """

    id: str
    verb: Verb
    pbx_id: str
    call: str = ""
    caller: str = ""
    callee: str = ""
    reason: str = ""


_decode = msgspec.json.Decoder(Wanted).decode


class FleetRecordings:
    """Raises what Fleet raises."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def ask(self, node: str, wanted: Wanted, within_s: float) -> CommandResult:
        """Asks the node's agent and waits. CommandResult.pbx_id: the recording's id."""
        await self._fleet.call_function("record_ask", node, msgspec.json.encode(wanted))
        raw = await self._fleet.result(wanted.id, within_s)
        if raw is None:
            words = f"the node's agent gave no answer within {within_s:g} s"
            return CommandResult("unknown", words)
        try:
            return decode_result(raw)
        except msgspec.DecodeError:
            return CommandResult("unknown", "the node's agent gave an answer that cannot be read")

    async def take(self, node: str) -> Wanted | None:
        """The next that the node's agent is asked for; what cannot be read is dropped."""
        raw = await self._fleet.call_function("record_take", node)
        try:
            return _decode(raw) if raw else None
        except msgspec.DecodeError:
            return None

    async def told(self, wanted: Wanted, result: CommandResult) -> None:
        await self._fleet.call_function("record_told", wanted.id, msgspec.json.encode(result))

    async def alarm(self, node: str, reason: str) -> None:
        await self._fleet.call_function("record_alarm", node, reason)


def new_id() -> str:
    return uuid.uuid4().hex
