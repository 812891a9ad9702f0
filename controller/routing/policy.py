"""What placement goes by, from the config into the map that lua/redis/ unpacks."""

from __future__ import annotations

from typing import Any

from controller.config import Config


def policy(config: Config) -> dict[str, Any]:
    """The map of `P:policy`; durations in ms."""
    p = config.placement
    return {
        "spill_above": p.spill_above,
        "reservation_ms": round(p.reservation_s * 1000),
        "silent_ms": round(p.silent_after_s * 1000),
        "ramp_ms": round(p.ramp_s * 1000),
        "admit": {"low": p.admit_low, "normal": p.admit_normal, "high": 1},
        "reject_cause": p.reject_cause,
        "retry_after_s": p.retry_after_s,
        "regions": {name: list(region.spill_to) for name, region in config.regions.items()},
        "numbers": {
            n.prefix: {
                "service": n.service,
                "regions": list(n.regions),
                "priority": n.priority.value,
            }
            for n in config.numbers
        },
    }
