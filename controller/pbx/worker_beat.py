"""What a driver tells the fleet of a linked node every BEAT_S. Pure."""

from __future__ import annotations

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
