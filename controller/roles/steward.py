"""The steward: of all that run, one leads; it keeps the fleet's data in step with the config.

The leader has Redis run its version's functions, sets the policy, renews certificates, forgets
nodes that left the config, and tells of every change of a node's state, in the log and as a
metric. Placement goes on without it.
"""

from __future__ import annotations

import asyncio
import logging

from prometheus_client import Counter, Gauge, Histogram

from controller import metrics, notify
from controller.config import Config
from controller.errors import FleetUnreachable, StaleEpoch
from controller.fleet.functions import Fleet, connect
from controller.fleet.keys import new_owner
from controller.fleet.state import NodeView
from controller.model import NodeState
from controller.roles.renewal import Renewal
from controller.routing.policy import policy
from controller.tasks import is_set
from controller.version import VERSION

ROUND_S = 0.5
LEAD_MS = 2000

REGISTRY = metrics.make_registry("steward")
LEADS = Gauge("pbxctl_steward_leads", "1 while this steward is the leader.", registry=REGISTRY)
CHANGES = Counter(
    "pbxctl_node_state_changes_total",
    "Changes of a node's state.",
    ["node", "state"],
    registry=REGISTRY,
)
DETECTION = Histogram(
    "pbxctl_node_detection_seconds",
    "From a node's last sign of life to the leader's seeing it out of placement.",
    ["reason"],
    buckets=(0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 5, 10),
    registry=REGISTRY,
)
#: reasons that the age of the last sign of life measures: a stuck SIP stack is alive on its link
DETECTED_BY = ("down", "silent")
for _reason in DETECTED_BY:
    DETECTION.labels(_reason)
EXPIRES = Gauge(
    "pbxctl_certificate_expires_seconds",
    "Seconds until a certificate of pki.folder ends; the name is that of its file.",
    ["authority", "name"],
    registry=REGISTRY,
)

log = logging.getLogger(__name__)


async def run(config: Config, stop: asyncio.Event) -> None:
    """Stands for election and leads, until `stop` is set."""
    fleet = Fleet(connect(config, "steward"), config.fleet)
    server = await metrics.serve_role(config, "steward", REGISTRY)
    owner = new_owner()
    epoch: str | None = None
    before: dict[str, NodeState] = {}
    renewal = Renewal(config, EXPIRES)
    notify.ready()
    try:
        while not stop.is_set():
            try:
                now_epoch = await fleet.lead("steward", owner, LEAD_MS)
                if now_epoch and now_epoch != epoch:
                    log.info("leads the fleet")
                    await _bring_in_step(config, fleet)
                epoch = now_epoch
                if epoch:
                    before = tell_changes(before, await fleet.nodes())
                    await renewal.step()
            except StaleEpoch:
                epoch = None
            except FleetUnreachable as error:
                if epoch:
                    log.warning("%s", error.message)
                epoch = None
            LEADS.set(1 if epoch else 0)
            await is_set(stop, ROUND_S)
    finally:
        await server.close()
        await fleet.close()


async def _bring_in_step(config: Config, fleet: Fleet) -> None:
    if await fleet.load_if_other():
        log.info("Redis runs the functions of version %s from now on", VERSION)
    await fleet.set_policy(policy(config))
    gone = {node.name for node in await fleet.nodes()} - set(config.nodes)
    if gone:
        log.info("forgets nodes that left the config: %s", ", ".join(sorted(gone)))
        await fleet.forget(sorted(gone))


def tell_changes(before: dict[str, NodeState], nodes: list[NodeView]) -> dict[str, NodeState]:
    """Logs and counts each node whose state is another one; answers the states now."""
    for node in nodes:
        if before.get(node.name) not in (None, node.state):
            level = logging.WARNING if node.state is NodeState.DOWN else logging.INFO
            why = node.problem or node.reason
            log.log(
                level, "node %s: %s, was %s%s", node.name, node.state.value,
                before[node.name].value, f" ({why})" if why else "",
            )  # fmt: skip
            CHANGES.labels(node.name, node.state.value).inc()
            if node.state is NodeState.DOWN and node.reason in DETECTED_BY:
                DETECTION.labels(node.reason).observe(node.silent_ms / 1000)
        elif node.name not in before:
            for state in NodeState:  # from 0, so that the first change is one
                CHANGES.labels(node.name, state.value)
    return {node.name: node.state for node in nodes}
