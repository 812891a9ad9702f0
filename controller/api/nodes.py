"""Nodes: how each stands, and what the operator wants of it."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from controller.api import journal, reply
from controller.api.shapes import Ask, NodeAction, Nodes
from controller.config import Config
from controller.fleet import commands
from controller.fleet.functions import Fleet
from controller.fleet.state import NodeView
from controller.model import NodeState, Want

ANSWER_WITHIN_S = 5.0
#: what is asked of placement, and of the PBX itself so that phones on it are turned away too
ACTIONS: dict[str, tuple[Want, commands.NodeCommand | None]] = {
    "drain": ("draining", commands.Drain()),
    "resume": ("active", commands.Resume()),
    "eject": ("ejected", None),
    "standby": ("standby", None),
}


def routes(config: Config, fleet: Fleet) -> list[web.RouteDef]:
    verbs = "|".join(ACTIONS)
    return [
        web.get("/v1/nodes", partial(_list, config, fleet), name="nodes"),
        web.get("/v1/nodes/{name}", partial(_show, config, fleet), name="node"),
        web.post(
            f"/v1/nodes/{{name}}/{{verb:{verbs}}}", partial(_act, config, fleet), name="node.action"
        ),
    ]


async def all_nodes(config: Config, fleet: Fleet) -> list[NodeView]:
    """Every node of the fleet, and those of the config that no driver has registered yet."""
    known = await fleet.nodes()
    have = {node.name for node in known}
    missing = [_absent(config, name) for name in config.nodes if name not in have]
    return sorted([*known, *missing], key=lambda node: node.name)


async def find(config: Config, fleet: Fleet, name: str) -> NodeView:
    """The node called `name`; NotFound names near ones."""
    nodes = {node.name: node for node in await all_nodes(config, fleet)}
    if name not in nodes:
        raise reply.unknown("node", name, nodes)
    return nodes[name]


def _absent(config: Config, name: str) -> NodeView:
    node = config.nodes[name]
    return NodeView(
        name=name, region=node.region, address=node.sip, kind=node.kind.value, version="",
        state=NodeState.DOWN, reason="no driver has taken it yet",
        want="standby" if node.standby else "active", load=0.0, calls=0, reserved=0,
        calls_max=node.calls_max or 0, channels=0, channels_max=node.channels_max or 0,
        arrivals_per_s=0.0, cpu=-1.0, weight=node.weight, silent_ms=-1, loss=-1.0, jitter_ms=-1.0,
        mes=-1.0, driver="", drift=0,
    )  # fmt: skip


async def _list(config: Config, fleet: Fleet, _: web.Request) -> web.Response:
    return reply.json(Nodes(await all_nodes(config, fleet)))


async def _show(config: Config, fleet: Fleet, request: web.Request) -> web.Response:
    return reply.json(await find(config, fleet, request.match_info["name"]))


async def _act(config: Config, fleet: Fleet, request: web.Request) -> web.Response:
    ask = await reply.body(request, Ask)
    verb = request.match_info["verb"]
    want, command = ACTIONS[verb]
    node = await find(config, fleet, request.match_info["name"])
    journal.note(request, node=node.name, action=verb, dry_run=ask.dry_run)
    answer = partial(
        NodeAction, node=node.name, action=verb, want=want, calls=node.calls, dry_run=ask.dry_run
    )
    if ask.dry_run:
        return reply.json(answer(before=node.want))
    before = await fleet.want(node.name, want)
    if before is None:
        raise reply.unknown("registered node", node.name, [n.name for n in await fleet.nodes()])
    if command is None:
        return reply.json(answer(before=before))
    result = await commands.send(fleet, node.name, command, ANSWER_WITHIN_S)
    journal.note(request, pbx=result.state)
    return reply.json(answer(before=before, pbx=result.state, message=result.message))
