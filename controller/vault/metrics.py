"""What a vault tells Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from controller import metrics

REGISTRY = metrics.make_registry("vault")
TAKEN = Counter(
    "pbxctl_vault_taken_bytes_total",
    "Sealed bytes stored and read back.",
    registry=REGISTRY,
)
REPEATED = Counter(
    "pbxctl_vault_repeated_bytes_total",
    "Sealed bytes that came again and were stored already.",
    registry=REGISTRY,
)
REFUSED = Counter(
    "pbxctl_vault_refused_total",
    "Recordings of which something was refused for good, by reason.",
    ["reason"],
    registry=REGISTRY,
)
FAILED = Counter(
    "pbxctl_vault_failed_total",
    "Requests of agents that could not be stored and will come again.",
    registry=REGISTRY,
)
INGEST_SECONDS = Histogram(
    "pbxctl_vault_ingest_seconds",
    "From an agent's request to its answer.",
    registry=REGISTRY,
)
GROWING = Gauge(
    "pbxctl_vault_growing",
    "Recordings in the store that have no body yet.",
    registry=REGISTRY,
)
SILENT = Gauge(
    "pbxctl_vault_silent_seconds",
    "Since anything was heard of the recording that was silent for longest; 0 without one.",
    registry=REGISTRY,
)
INTAKE = Gauge(
    "pbxctl_vault_intake_waiting",
    "Envelopes that no keeper has taken yet.",
    registry=REGISTRY,
)
INTAKE_SECONDS = Gauge(
    "pbxctl_vault_intake_seconds",
    "How long the oldest of them has waited.",
    registry=REGISTRY,
)
BAD = Gauge(
    "pbxctl_vault_bad_envelopes",
    "Envelopes that no key of ours opens.",
    registry=REGISTRY,
)
KEPT = Gauge(
    "pbxctl_vault_recordings",
    "Recordings in the index, by state.",
    ["state"],
    registry=REGISTRY,
)
HELD = Gauge("pbxctl_vault_held", "Recordings under a legal hold.", registry=REGISTRY)
OVERDUE = Gauge(
    "pbxctl_vault_overdue",
    "Recordings whose time is over and that are not erased yet, without those on hold.",
    registry=REGISTRY,
)
LOST = Gauge(
    "pbxctl_vault_lost",
    "Recordings whose body the last check did not find as it was stored.",
    registry=REGISTRY,
)
ERASED = Counter(
    "pbxctl_vault_erased_total",
    "Recordings erased, by reason: retention or a person's order.",
    ["why"],
    registry=REGISTRY,
)
KEYS = Gauge(
    "pbxctl_vault_keys", "Keys that the vault holds, by kind.", ["kind"], registry=REGISTRY
)
READS = Counter(
    "pbxctl_vault_reads_total",
    "Reads of recordings and of the index, by what was asked and how it ended.",
    ["action", "outcome"],
    registry=REGISTRY,
)
