"""Calls: what is up, why each stands where it stands, hanging up and calling out."""

from __future__ import annotations

import uuid
from functools import partial

from aiohttp import web

from controller.api import journal, reply
from controller.api.nodes import all_nodes, find
from controller.api.route import region_of
from controller.api.shapes import (
    CallAction,
    Calls,
    CallView,
    HangupAsk,
    OriginateAsk,
    Why,
    call_view,
)
from controller.config import Config
from controller.errors import NotFound, Refused, UsageError
from controller.fleet import commands
from controller.fleet.functions import Fleet
from controller.fleet.state import CallRecord
from controller.model import Kind, OriginateRequest, Rejected
from controller.routing import outbound
from controller.routing.explain import explain

ANSWER_WITHIN_S = 7.0  # the driver's own deadline is 5 s
LIMIT_MAX = 10_000


def routes(config: Config, fleet: Fleet) -> list[web.RouteDef]:
    return [
        web.get("/v1/calls", partial(_list, config, fleet), name="calls"),
        web.post("/v1/calls", partial(_originate, config, fleet), name="originate"),
        web.get("/v1/calls/{id}", partial(_show, fleet), name="call"),
        web.get("/v1/calls/{id}/why", partial(_why, config, fleet), name="call.why"),
        web.post("/v1/calls/{id}/hangup", partial(_hangup, fleet), name="hangup"),
    ]


async def _list(config: Config, fleet: Fleet, request: web.Request) -> web.Response:
    limit = request.query.get("limit", "1000")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= LIMIT_MAX:
        raise UsageError(f"limit must be 1 to {LIMIT_MAX}")
    if name := request.query.get("node", ""):
        nodes = [await find(config, fleet, name)]
    else:
        nodes = await all_nodes(config, fleet)
    shown: list[CallView] = []
    for node in nodes:
        # one more than fits, to know whether something was left out
        shown += map(call_view, await fleet.calls(node.name, int(limit) + 1))
        if len(shown) > int(limit):
            break
    return reply.json(Calls(shown[: int(limit)], truncated=len(shown) > int(limit)))


async def find_call(fleet: Fleet, request: web.Request) -> CallRecord:
    call_id = request.match_info["id"]
    call = await fleet.call(call_id)
    if call is None:
        raise NotFound(
            f"no call is known as {call_id[:128]!r}",
            hint="keys and placements are in `pbxctl calls list`; an ended call is kept 15 minutes",
        )
    return call


async def _show(fleet: Fleet, request: web.Request) -> web.Response:
    return reply.json(call_view(await find_call(fleet, request)))


async def _why(config: Config, fleet: Fleet, request: web.Request) -> web.Response:
    call = await find_call(fleet, request)
    now_ms = (await fleet.presence()).now_ms
    return reply.json(Why(call_view(call), explain(call, config, now_ms), now_ms))


async def _hangup(fleet: Fleet, request: web.Request) -> web.Response:
    ask = await reply.body(request, HangupAsk)
    call = await find_call(fleet, request)
    shown = call_view(call)
    journal.note(request, call=shown.key, node=call.node, cause=ask.cause, dry_run=ask.dry_run)
    if call.state != "live":
        raise Refused(
            f"the call is {call.state}, not live",
            hint="a reserved call has no leg yet: drain or eject its node to keep it away"
            if call.state == "reserved"
            else "there is nothing left to hang up",
        )
    if ask.dry_run:
        state, message = "dry_run", ""
    else:
        command = commands.Hangup(call.pbx_id, ask.cause)
        result = await commands.send(fleet, call.node, command, ANSWER_WITHIN_S)
        state, message = result.state, result.message
        journal.note(request, state=state)
    return reply.json(
        CallAction("hangup", call.node, state, message, call.call_id, call.pbx_id, call.placement)
    )


async def _originate(config: Config, fleet: Fleet, request: web.Request) -> web.Response:
    ask = await reply.body(request, OriginateAsk)
    callee = outbound.number(ask.to, "the number to call")
    caller = outbound.number(ask.caller, "the number to call from")
    region = region_of(config, ask.region)
    call_id = f"gate-{uuid.uuid4().hex}"
    journal.note(
        request, to=journal.masked(callee), caller=journal.masked(caller), region=region,
        dry_run=ask.dry_run,
    )  # fmt: skip
    priority = ask.priority.value if ask.priority else ""
    verdict = await fleet.route(call_id, region, caller, callee, priority, dry=ask.dry_run)
    if isinstance(verdict, Rejected):
        raise Refused(
            f"no node takes the call: {verdict.reason}", hint="see `pbxctl nodes list` for why"
        )
    if ask.dry_run:
        return reply.json(CallAction("originate", verdict.node, "dry_run", verdict.reason))
    kind = Kind((await find(config, fleet, verdict.node)).kind)
    command = commands.Originate(
        OriginateRequest(
            endpoint=outbound.endpoint(kind, callee),
            context=outbound.SERVICE_CONTEXT,
            exten=caller,
            placement=verdict.placement,
            caller=caller,
            timeout_s=ask.timeout_s,
        )
    )
    result = await commands.send(fleet, verdict.node, command, ANSWER_WITHIN_S)
    journal.note(request, node=verdict.node, state=result.state, placement=verdict.placement)
    return reply.json(
        CallAction(
            "originate",
            verdict.node,
            result.state,
            result.message or verdict.reason,
            call_id,
            result.pbx_id,
            verdict.placement,
        )
    )
