"""Recording one call, or no longer; silence in it while a card's number is said.

The gate writes down who asked, and asks the agent of the call's node.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from controller.api import journal, reply
from controller.api.calls import find_call
from controller.api.shapes import Ask, call_key
from controller.config import Config
from controller.errors import Refused
from controller.fleet.functions import Fleet
from controller.fleet.recordings import FleetRecordings, Wanted, new_id

ANSWER_WITHIN_S = 9.0  # the agent's own deadline for the driver is 6 s


class RecordingAsk(Ask, frozen=True, kw_only=True):
    """reason: kept with a recording that is started so."""

    verb: Literal["start", "stop", "pause", "resume"]
    reason: Annotated[str, Meta(max_length=64)] = ""


class RecordingChange(msgspec.Struct, frozen=True):
    """state: done, failed, unknown, or "dry_run". recording: its id, "" when there is none."""

    action: str
    call: str
    node: str
    state: str
    message: str = ""
    recording: str = ""


def routes(config: Config, fleet: Fleet) -> list[web.RouteDef]:
    handler = partial(_change, config, fleet)
    return [web.post("/v1/calls/{id}/recording", handler, name="call.recording")]


async def _change(config: Config, fleet: Fleet, request: web.Request) -> web.Response:
    ask = await reply.body(request, RecordingAsk)
    call = await find_call(fleet, request)
    key = call_key(call)
    journal.note(request, call=key, node=call.node, verb=ask.verb, dry_run=ask.dry_run)
    if config.recordings is None:
        raise Refused(
            "this fleet records nothing",
            hint="write a recordings section and render the nodes: docs/recordings.md",
        )
    if call.state != "live":
        raise Refused(f"the call is {call.state}, not live", hint="pbxctl calls list")
    if ask.dry_run:
        return reply.json(RecordingChange(ask.verb, key, call.node, "dry_run"))
    wanted = Wanted(
        new_id(), ask.verb, call.pbx_id, call.call_id, call.caller, call.callee, ask.reason
    )
    result = await FleetRecordings(fleet).ask(call.node, wanted, ANSWER_WITHIN_S)
    journal.note(request, state=result.state, recording=result.pbx_id)
    return reply.json(
        RecordingChange(ask.verb, key, call.node, result.state, result.message, result.pbx_id)
    )
