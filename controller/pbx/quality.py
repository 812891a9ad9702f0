"""Loss and jitter of a node's media, from what the PBX says of each leg as it ends. Pure.

Asterisk sets RTPAUDIOQOS on the channel (a VarSet event); FreeSWITCH puts its RTP counters on the
last events of the channel. Both count what the PBX received. The recent legs outweigh the old ones.
"""

from __future__ import annotations

import math
import re

TAU_S = 60.0
PACKETS_MIN = 50  # a second of audio; fewer say nothing
PACKETS_MAX = 1e9  # a number beyond any call is no count

_FIELD = re.compile(r"(?:^|;)(lp|rxcount|rxjitter)=([0-9]{1,12}(?:\.[0-9]{1,9})?)(?=;|$)")


class Quality:
    """Times are the caller's monotonic seconds."""

    def __init__(self) -> None:
        self._received = 0.0
        self._lost = 0.0
        self._jitter_ms = 0.0  # times the packets of legs that told it
        self._told_jitter = 0.0
        self._at_s = 0.0

    def leg_ended(
        self, received: float, lost: float, jitter_ms: float | None, now_s: float
    ) -> None:
        """One leg's packets received and lost on the way to the PBX."""
        if not (0 <= received <= PACKETS_MAX and 0 <= lost <= PACKETS_MAX):
            return
        self._decay(now_s)
        self._received += received
        self._lost += lost
        if jitter_ms is not None and 0 <= jitter_ms < 60_000:
            self._jitter_ms += jitter_ms * received
            self._told_jitter += received

    def loss(self, now_s: float) -> float | None:
        """Share of packets lost, 0 to 1; None while too little is known."""
        self._decay(now_s)
        total = self._received + self._lost
        return self._lost / total if total >= PACKETS_MIN else None

    def jitter_ms(self, now_s: float) -> float | None:
        self._decay(now_s)
        return self._jitter_ms / self._told_jitter if self._told_jitter >= PACKETS_MIN else None

    def _decay(self, now_s: float) -> None:
        keep = math.exp(-max(0.0, now_s - self._at_s) / TAU_S) if self._at_s else 1.0
        self._at_s = now_s
        self._received *= keep
        self._lost *= keep
        self._jitter_ms *= keep
        self._told_jitter *= keep


def parse_rtpaudioqos(text: str) -> tuple[float, float, float | None] | None:
    """received, lost, jitter_ms of Asterisk's `ssrc=…;lp=0;rxjitter=0.003;rxcount=301;…`.

    rxjitter is in seconds (res_rtp_asterisk.c). None for anything else.
    """
    fields = {name: float(value) for name, value in _FIELD.findall(text[:512])}
    if "rxcount" not in fields or "lp" not in fields:
        return None
    jitter_s = fields.get("rxjitter")
    return fields["rxcount"], fields["lp"], None if jitter_s is None else jitter_s * 1000
