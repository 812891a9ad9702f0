"""What a driver tells the fleet of a node: once, and every BEAT_S while it is linked. Pure."""

from __future__ import annotations

from typing import Any

from controller.config import NodeConfig
from controller.fleet.state import Beat
from controller.model import LoadSample, NodeFacts


def beat_of(
    config: NodeConfig,
    facts: NodeFacts | None,
    load: LoadSample,
    silence_s: float,
    sip: bool,
    in_step: bool,
) -> Beat:
    """The config's limits come before the PBX's own. sip: its SIP stack answers."""
    calls_max = config.calls_max or load.calls_max or (facts.calls_max if facts else None)
    return Beat(
        link=True,
        silence_ms=round(silence_s * 1000),
        sip=sip,
        channels=load.channels,
        channels_max=config.channels_max or load.channels_max,
        calls_max=calls_max,
        cpu=load.cpu,
        loss=load.loss,
        jitter=load.jitter_ms,
        mes=load.mes,
        version=facts.version if facts else None,
        in_step=None if in_step else False,
        problem="",
    )


def registration_of(
    config: NodeConfig, facts: NodeFacts | None, want: str, owner: str
) -> dict[str, Any]:
    """Without what is not known."""
    told = {
        "region": config.region,
        "address": config.sip,
        "kind": config.kind.value,
        "weight": config.weight,
        "calls_max": config.calls_max or (facts.calls_max if facts else None),
        "channels_max": config.channels_max or (facts.channels_max if facts else None),
        "rate_max": config.arrivals_max_per_s,
        "want": want,
        "owner": owner,
    }
    return {name: value for name, value in told.items() if value is not None}
