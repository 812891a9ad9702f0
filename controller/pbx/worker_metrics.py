"""What the driver role counts. Labels name nodes, never calls."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from controller.metrics import make_registry

REGISTRY = make_registry("driver")

EVENTS = Counter(
    "pbxctl_driver_events_total", "Events taken from nodes.", ["kind"], registry=REGISTRY
)
EVENTS_LOST = Counter(
    "pbxctl_driver_events_lost_total",
    "Events a PBX or our queue dropped.",
    ["node"],
    registry=REGISTRY,
)
BAD_EVENTS = Counter(
    "pbxctl_driver_bad_events_total",
    "Events that could not be understood.",
    ["node"],
    registry=REGISTRY,
)
LINK_UP = Gauge(
    "pbxctl_driver_link_up",
    "1 while the control link to the node is up.",
    ["node"],
    registry=REGISTRY,
)
LINKS_LOST = Counter(
    "pbxctl_driver_links_lost_total", "Control links that ended.", ["node"], registry=REGISTRY
)
LOGIN_REFUSED = Counter(
    "pbxctl_driver_login_refused_total", "Logins a node refused.", ["node"], registry=REGISTRY
)
EVENT_LAG = Histogram(
    "pbxctl_driver_event_lag_seconds",
    "From taking events off a link to their being in the picture.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
    registry=REGISTRY,
)
DRIFT = Gauge(
    "pbxctl_driver_drift_calls",
    "Calls by which our set was wrong when last compared.",
    ["node"],
    registry=REGISTRY,
)
WORDS_LOST = Counter(
    "pbxctl_driver_words_lost_total", "Words to Redis that were not answered.", registry=REGISTRY
)
LEASES = Gauge("pbxctl_driver_leases", "Nodes that this driver holds.", registry=REGISTRY)


def from_zero(node: str) -> None:
    """Shows the node's counters of trouble before there is any, so that the first counts as one."""
    for counter in (EVENTS_LOST, BAD_EVENTS, LINKS_LOST, LOGIN_REFUSED):
        counter.labels(node)
