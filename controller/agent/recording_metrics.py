"""What the agent tells of recordings, by node where a machine has several."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from controller.agent.answers import REGISTRY

LIVE = Gauge(
    "pbxctl_recordings_live", "Recordings that have not ended.", ["node"], registry=REGISTRY
)
ASKED = Counter(
    "pbxctl_recordings_asked_total",
    "Calls that a rule wants recorded, by what became of them: record, go_on or refuse.",
    ["node", "verdict"],
    registry=REGISTRY,
)
ENDED = Counter(
    "pbxctl_recordings_ended_total",
    "Recordings that the vault or the spool holds to their end, by outcome.",
    ["node", "outcome"],
    registry=REGISTRY,
)
SEALED = Counter(
    "pbxctl_recordings_sealed_bytes_total", "Sealed audio.", ["node"], registry=REGISTRY
)
SHIPPED = Counter(
    "pbxctl_recordings_shipped_bytes_total",
    "Requests that the vault has answered for.",
    ["node"],
    registry=REGISTRY,
)
SHIP_SECONDS = Histogram(
    "pbxctl_recordings_ship_seconds",
    "Time from a request to the vault's answer.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
    registry=REGISTRY,
)
SPOOL_BYTES = Gauge(
    "pbxctl_recordings_spool_bytes",
    "Sealed audio on the node's disk, for a vault that is away.",
    ["node"],
    registry=REGISTRY,
)
VAULT_UP = Gauge(
    "pbxctl_recordings_vault_up", "1 while the vault answers.", ["node"], registry=REGISTRY
)
TMPFS_USED = Gauge(
    "pbxctl_recordings_tmpfs_used_ratio", "Of the tmpfs, 0 to 1.", ["node"], registry=REGISTRY
)
UNABLE = Gauge(
    "pbxctl_recordings_unable",
    "1 while nothing can be recorded on the node.",
    ["node"],
    registry=REGISTRY,
)
REFUSED = Counter(
    "pbxctl_recordings_refused_total",
    "Recordings that the vault refused for good.",
    ["node"],
    registry=REGISTRY,
)


def show(
    node: str,
    *,
    live: int,
    spool_bytes: int,
    vault_up: bool,
    unable: bool,
    tmpfs_used: float,
) -> None:
    """What changes from tick to tick."""
    LIVE.labels(node).set(live)
    SPOOL_BYTES.labels(node).set(spool_bytes)
    VAULT_UP.labels(node).set(vault_up)
    UNABLE.labels(node).set(unable)
    TMPFS_USED.labels(node).set(tmpfs_used)
