"""What the driver role counts. Labels name nodes, never calls."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

EVENTS = Counter("pbxctl_driver_events_total", "Events taken from nodes.", ["kind"])
EVENTS_LOST = Counter(
    "pbxctl_driver_events_lost_total", "Events a PBX or our queue dropped.", ["node"]
)
BAD_EVENTS = Counter(
    "pbxctl_driver_bad_events_total", "Events that could not be understood.", ["node"]
)
LINK_UP = Gauge("pbxctl_driver_link_up", "1 while the control link to the node is up.", ["node"])
LINKS_LOST = Counter("pbxctl_driver_links_lost_total", "Control links that ended.", ["node"])
LOGIN_REFUSED = Counter("pbxctl_driver_login_refused_total", "Logins a node refused.", ["node"])
DRIFT = Gauge(
    "pbxctl_driver_drift_calls", "Calls by which our set was wrong when last compared.", ["node"]
)
WORDS_LOST = Counter("pbxctl_driver_words_lost_total", "Words to Redis that were not answered.")
LEASES = Gauge("pbxctl_driver_leases", "Nodes that this driver holds.")
