"""The fleet as Prometheus metrics, read from Redis at each scrape; docs/metrics.md lists them.

Labels are node, region, state and the like, never a call: their number is bounded by the config.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.api.nodes import all_nodes
from controller.config import Config
from controller.errors import PbxctlError
from controller.fleet.functions import Fleet
from controller.fleet.phones import FleetPhones
from controller.fleet.state import NodeView, Presence
from controller.media.phones import behind
from controller.model import NodeState

NODE = ("node", "region", "kind")
#: name, help, value; None leaves the node out of the metric
_OF_NODE: tuple[tuple[str, str, Callable[[NodeView], float | None]], ...] = (
    ("load_ratio", "Fullest signal of the node over its weight, 1 is full.", lambda n: n.load),
    ("calls", "Live calls.", lambda n: n.calls),
    ("calls_reserved", "Calls placed that have not shown on the node yet.", lambda n: n.reserved),
    ("calls_limit", "Calls that placement gives the node at most.", lambda n: n.calls_max or None),
    ("channels", "Legs up on the PBX.", lambda n: n.channels),
    ("channels_limit", "The PBX's own limit of legs.", lambda n: n.channels_max or None),
    ("arrivals_per_second", "New calls per second, smoothed.", lambda n: n.arrivals_per_s),
    ("cpu_ratio", "Busy share of the host's CPU, smoothed.", lambda n: _told(n.cpu)),
    ("rtp_loss_ratio", "Share of RTP packets lost, as the PBX tells.", lambda n: _told(n.loss)),
    (
        "rtp_jitter_seconds",
        "RTP jitter, as the PBX tells.",
        lambda n: n.jitter_ms / 1000 if n.jitter_ms >= 0 else None,
    ),
    (
        "rtp_mes",
        "Media experience score, 20 (worst) to 90, as the PBX tells.",
        lambda n: _told(n.mes),
    ),
    (
        "silent_seconds",
        "Time since the node's last sign of life.",
        lambda n: n.silent_ms / 1000 if n.driver else None,
    ),
    (
        "drift_calls",
        "Calls by which the live set was wrong at the last comparison with the node.",
        lambda n: n.drift,
    ),
)
#: counters that are shown before the first of their kind, so that it counts as one
_FROM_ZERO = {
    **{
        f"reject:{why}": 0
        for why in (
            *("no room", "no node fit", "phone", "tries"),
            *("malformed", "unknown fleet", "unknown region"),
        )
    },
    **{f"alarm:{kind}": 0 for kind in ("media", "packets")},
}


@dataclass(frozen=True)
class PhonesOf:
    """One node's. behind: published changes that it does not run on yet."""

    registered: int
    behind: int
    problem: str


_OF_PHONES: tuple[tuple[str, str, Callable[[PhonesOf], float]], ...] = (
    ("registered", "Phones registered on the node.", lambda p: p.registered),
    (
        "pending_changes",
        "Changes of phones that the node does not run on yet.",
        lambda p: p.behind,
    ),
    (
        "problem",
        "1 while the node's file of phones cannot be brought in step.",
        lambda p: float(bool(p.problem)),
    ),
)


def _told(value: float) -> float | None:
    return value if value >= 0 else None


class FleetCollector(Collector):
    """Shows what `refresh` last read. While Redis is away only pbxctl_fleet_reachable is shown."""

    def __init__(self, config: Config, fleet: Fleet) -> None:
        self._config = config
        self._fleet = fleet
        self._phones = FleetPhones(fleet)
        self._seen: tuple[list[NodeView], dict[str, int], Presence, dict[str, PhonesOf]] | None = (
            None
        )
        self._answer_s = 0.0
        kinds = ("place", "spill")
        self._from_zero = {f"{kind}:{region}": 0 for kind in kinds for region in config.regions}

    async def refresh(self) -> None:
        began_s = time.monotonic()
        try:
            nodes = await all_nodes(self._config, self._fleet)
            stats, presence = await self._fleet.stats(), await self._fleet.presence()
            self._seen = nodes, stats, presence, await self._of_phones()
            self._answer_s = time.monotonic() - began_s
        except PbxctlError:
            # Old values would look alive; their absence and fleet_reachable 0 say what is wrong.
            self._seen = None

    async def _of_phones(self) -> dict[str, PhonesOf]:
        published = await self._phones.published()
        told = await self._phones.acknowledged()
        counts = await self._phones.counts(list(self._config.nodes))
        return {
            name: PhonesOf(
                counts[name],
                behind(self._config, name, published, told),
                told[name].problem if name in told else "",
            )
            for name in self._config.nodes
        }

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "pbxctl_fleet_reachable",
            "1 while the fleet's picture in Redis can be read.",
            value=float(self._seen is not None),
        )
        if self._seen is None:
            return
        nodes, counters, presence, phones = self._seen
        yield GaugeMetricFamily(
            "pbxctl_fleet_answer_seconds",
            "Time in which Redis answered this scrape's questions.",
            value=self._answer_s,
        )
        yield from node_metrics(nodes)
        yield from phone_metrics(nodes, phones)
        yield from counter_metrics(_FROM_ZERO | self._from_zero | counters)
        yield GaugeMetricFamily(
            "pbxctl_drivers", "Driver processes alive.", value=len(presence.drivers)
        )
        yield GaugeMetricFamily(
            "pbxctl_leader", "1 while a steward leads.", value=float(bool(presence.leader))
        )


def node_metrics(nodes: list[NodeView]) -> Iterable[Metric]:
    state = GaugeMetricFamily(
        "pbxctl_node_state", "1 for the state the node is in.", labels=[*NODE, "state"]
    )
    for node in nodes:
        for value in NodeState:
            labels = [node.name, node.region, node.kind, value.value]
            state.add_metric(labels, float(node.state is value))
    yield state
    for name, text, read in _OF_NODE:
        family = GaugeMetricFamily(f"pbxctl_node_{name}", text, labels=NODE)
        for node in nodes:
            told = read(node)
            if told is not None:
                family.add_metric([node.name, node.region, node.kind], told)
        yield family


def phone_metrics(nodes: list[NodeView], phones: dict[str, PhonesOf]) -> Iterable[Metric]:
    for name, text, read in _OF_PHONES:
        family = GaugeMetricFamily(f"pbxctl_node_phones_{name}", text, labels=NODE)
        for node in nodes:
            if node.name in phones:
                family.add_metric([node.name, node.region, node.kind], read(phones[node.name]))
        yield family


def counter_metrics(counters: dict[str, int]) -> Iterable[Metric]:
    """Fleet.stats has `place:REGION`, `spill:REGION`, `reject:WHY`, `alarm:KIND`."""
    families = {
        "place": CounterMetricFamily(
            "pbxctl_placements", "Calls placed in the caller's first region.", labels=["region"]
        ),
        "spill": CounterMetricFamily(
            "pbxctl_spills", "Calls placed in a further region.", labels=["region"]
        ),
        "reject": CounterMetricFamily(
            "pbxctl_rejects", "Calls that no node could take.", labels=["reason"]
        ),
        "alarm": CounterMetricFamily("pbxctl_alarms", "Alarms raised.", labels=["kind"]),
    }
    for key, value in sorted(counters.items()):
        kind, _, label = key.partition(":")
        if kind in families:
            families[kind].add_metric([label], value)
    return families.values()
