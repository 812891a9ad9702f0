"""What is counted of attestations. Labels have few values: a peer chooses what it offers."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from controller.pbx.worker_metrics import REGISTRY

SUITES = frozenset(
    {
        "AEAD_AES_256_GCM",
        "AEAD_AES_128_GCM",
        "AES_CM_256_HMAC_SHA1_80",
        "AES_CM_256_HMAC_SHA1_32",
        "AES_256_CM_HMAC_SHA1_80",
        "AES_256_CM_HMAC_SHA1_32",
        "AES_192_CM_HMAC_SHA1_80",
        "AES_CM_128_HMAC_SHA1_80",
        "AES_CM_128_HMAC_SHA1_32",
    }
)

LEGS = Counter(
    "pbxctl_media_legs_total",
    "Legs attested, by SRTP suite (untold, none, other) and verdict.",
    ["suite", "verdict"],
    registry=REGISTRY,
)
LEGS.labels("none", "plain")  # from 0, so that the first in clear counts as one
SECONDS = Histogram(
    "pbxctl_attestation_seconds",
    "From a call's answer to its attestation in the picture.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5),
    registry=REGISTRY,
)
ALARMS = Counter(
    "pbxctl_media_alarms_total",
    "Calls found unencrypted: told by the PBX (media) or seen in packets.",
    ["kind"],
    registry=REGISTRY,
)
ALARMS.labels("media")  # from 0, so that the first counts as one
HANGUPS = Counter(
    "pbxctl_media_hangups_total",
    "Calls hung up because a policy requires encryption.",
    ["node"],
    registry=REGISTRY,
)
UNANSWERED = Counter(
    "pbxctl_attestation_unanswered_total",
    "Questions about media that a node did not answer in time.",
    ["node"],
    registry=REGISTRY,
)


def suite_label(suite: str, encrypted: bool | None) -> str:
    """A bounded label: a known suite, "other", "untold" for encrypted by what the PBX keeps to
    itself, "none" for clear."""
    if not encrypted:
        return "none"
    if not suite:
        return "untold"
    return suite if suite in SUITES else "other"


def from_zero(node: str) -> None:
    HANGUPS.labels(node)
    UNANSWERED.labels(node)
