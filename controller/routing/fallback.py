"""Where a call goes while Redis does not answer: decided by an agent from its last snapshot.

Pure: no clock, no network. `Fallback` remembers what was answered, by call id.

Order of choice: the regions as placement would take them (those of the number's range, or the
caller's own and then its spill_to); in a region the least loaded node, where the agent's own recent
placements count as load. The agent's own node has no privilege, as it is no less loaded for being
near; it is the last resort only when there is no snapshot at all.

What holds
    bound       on one node at most `calls_max_per_node` calls per agent within `window_s`, and
                never more than the node's limit by the snapshot and the calls placed since.
    repeatable  a call id gets the same answer again until it names that answer as failed.
    elsewhere   a call never goes back to a node that failed it.
What cannot hold without Redis: agents do not know of each other, so k agents may together place k
times as much; the node's own limit (calls_max in its PBX) then refuses, and the edge asks again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from controller.config import Config, RangeConfig
from controller.fleet.state import NodeView
from controller.model import NodeState, Placed, Rejected, Verdict

_CALLS_REMEMBERED = 10_000


class Snapshot(msgspec.Struct, frozen=True):
    """The nodes as Redis last told them. taken_s: seconds since 1970, for its age only."""

    taken_s: float
    nodes: tuple[NodeView, ...]


@dataclass(frozen=True)
class Ask:
    """One question. own: node that asks, "" for none; failed: placement that failed, or ""."""

    call_id: str
    region: str
    callee: str
    own: str = ""
    failed: str = ""


@dataclass(frozen=True)
class _Answered:
    placed: Placed
    tried: frozenset[str]


def range_of(numbers: Sequence[RangeConfig], callee: str) -> RangeConfig | None:
    """The number plan's range with the longest prefix of `callee`."""
    fitting = [r for r in numbers if callee.startswith(r.prefix)]
    return max(fitting, key=lambda r: len(r.prefix), default=None)


class Fallback:
    """The answers of one agent. `now_s` is any clock that only goes forward."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.window_s = config.placement.reservation_s
        self.calls_max_per_node = config.agent.fallback_calls_per_node
        self._answers: OrderedDict[str, _Answered] = OrderedDict()
        self._recent: dict[str, deque[float]] = {}

    def remember(self, call_id: str, placed: Placed) -> None:
        """Keeps what Redis answered: asked again without Redis, the call is not placed twice."""
        before = self._answers.get(call_id)
        tried = before.tried | {before.placed.node} if before else frozenset[str]()
        if before and before.placed.placement == placed.placement:
            return
        self._keep(call_id, _Answered(placed, tried - {placed.node}))

    def decide(self, ask: Ask, snapshot: Snapshot | None, now_s: float) -> Verdict:
        before = self._answers.get(ask.call_id)
        tried: frozenset[str] = frozenset()
        if before:
            if ask.failed != before.placed.placement:
                return before.placed
            tried = before.tried | {before.placed.node}
        number = range_of(self._config.numbers, ask.callee)
        node = self._choose(ask, number, snapshot, tried, now_s)
        if node is None:
            retry_s = self._config.placement.retry_after_s
            return Rejected(503, retry_s, "Redis is away and no node of the snapshot has room")
        digest = hashlib.sha256(ask.call_id.encode("utf-8", "replace")).hexdigest()[:24]
        placed = Placed(
            node=node[0],
            address=node[1],
            placement=f"fb-{digest}-{len(tried) + 1}",
            reason="Redis is away: least load of the agent's snapshot",
            service=number.service if number else "",
        )
        self._recent.setdefault(placed.node, deque()).append(now_s)
        self._keep(ask.call_id, _Answered(placed, tried))
        return placed

    def _choose(
        self,
        ask: Ask,
        number: RangeConfig | None,
        snapshot: Snapshot | None,
        tried: frozenset[str],
        now_s: float,
    ) -> tuple[str, str] | None:
        if snapshot is None:
            own = self._config.nodes.get(ask.own)
            if (
                own
                and ask.own not in tried
                and self._made(ask.own, now_s) < self.calls_max_per_node
            ):
                return ask.own, own.sip
            return None
        for region in self._regions(ask.region, number):
            fit = [
                (load, node.name, node.address)
                for node in snapshot.nodes
                if node.region == region and node.name not in tried
                if (load := self._load(node, now_s)) is not None
            ]
            if fit:
                _, name, address = min(fit)
                return name, address
        return None

    def _load(self, node: NodeView, now_s: float) -> float | None:
        """The node's load with our recent calls on top, or None when it may get no call."""
        if node.state not in (NodeState.ACTIVE, NodeState.JOINING) or node.calls_max < 1:
            return None
        made = self._made(node.name, now_s)
        if made >= self.calls_max_per_node:
            return None
        if node.calls + node.reserved + made >= node.calls_max:
            return None
        return node.load + made / node.calls_max / max(node.weight, 1e-6)

    def _made(self, node: str, now_s: float) -> int:
        recent = self._recent.get(node)
        if not recent:
            return 0
        while recent and recent[0] <= now_s - self.window_s:
            recent.popleft()
        return len(recent)

    def _regions(self, region: str, number: RangeConfig | None) -> Sequence[str]:
        if number and number.regions:
            return number.regions
        own = self._config.regions.get(region)
        return (region, *(own.spill_to if own else ()))

    def _keep(self, call_id: str, answered: _Answered) -> None:
        self._answers[call_id] = answered
        self._answers.move_to_end(call_id)
        while len(self._answers) > _CALLS_REMEMBERED:
            self._answers.popitem(last=False)
