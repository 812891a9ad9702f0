"""Loss, jitter and experience score of a node's media, from what the PBX says of each leg as it
ends. Pure.

Asterisk sets RTPAUDIOQOS on the channel (a VarSet event); FreeSWITCH puts its RTP counters on the
last events of the channel. All is of what the PBX received. The recent legs outweigh the old ones.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

TAU_S = 60.0
PACKETS_MIN = 50  # a second of audio; fewer say nothing
PACKETS_MAX = 1e9  # a number beyond any call is no count
#: Asterisk tells its Media Experience Score as 20 times the MOS of the E-model (ITU-T G.107)
MES_OF_MOS = 20.0

_FIELD = re.compile(r"(?:^|;)(lp|rxcount|txjitter|txmes)=([0-9]{1,12}(?:\.[0-9]{1,9})?)(?=;|$)")


class LegQuality(NamedTuple):
    """received, lost: packets on the way to the PBX. None: the PBX did not tell it of this leg."""

    received: float
    lost: float
    jitter_ms: float | None = None
    mes: float | None = None


class _Mean:
    """Of the legs that told a value, by their packets."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._packets = 0.0

    def add(self, value: float, packets: float) -> None:
        self._sum += value * packets
        self._packets += packets

    def fade(self, keep: float) -> None:
        self._sum *= keep
        self._packets *= keep

    def value(self) -> float | None:
        return self._sum / self._packets if self._packets >= PACKETS_MIN else None


class Quality:
    """Times are the caller's monotonic seconds. Each value is None while too little is known."""

    def __init__(self) -> None:
        self._loss = _Mean()
        self._jitter_ms = _Mean()
        self._mes = _Mean()
        self._at_s = 0.0

    def leg_ended(self, leg: LegQuality, now_s: float) -> None:
        if not (0 <= leg.received <= PACKETS_MAX and 0 <= leg.lost <= PACKETS_MAX):
            return
        self._fade(now_s)
        if total := leg.received + leg.lost:
            self._loss.add(leg.lost / total, total)
        if leg.jitter_ms is not None and 0 <= leg.jitter_ms < 60_000:
            self._jitter_ms.add(leg.jitter_ms, leg.received)
        if leg.mes is not None and 0 < leg.mes <= 100:
            self._mes.add(leg.mes, leg.received)

    def loss(self, now_s: float) -> float | None:
        """Share of packets lost, 0 to 1."""
        self._fade(now_s)
        return self._loss.value()

    def jitter_ms(self, now_s: float) -> float | None:
        self._fade(now_s)
        return self._jitter_ms.value()

    def mes(self, now_s: float) -> float | None:
        """20, nothing to understand, to 90."""
        self._fade(now_s)
        return self._mes.value()

    def _fade(self, now_s: float) -> None:
        keep = math.exp(-max(0.0, now_s - self._at_s) / TAU_S) if self._at_s else 1.0
        self._at_s = now_s
        for mean in (self._loss, self._jitter_ms, self._mes):
            mean.fade(keep)


def parse_rtpaudioqos(text: str) -> LegQuality | None:
    """Asterisk's `ssrc=…;lp=0;rxjitter=0.000000;rxcount=301;txjitter=0.003;…;txmes=88.087887`.

    The names mislead (Asterisk 22.10): rxjitter and rxmes are what the far end reported by RTCP of
    what it received, txjitter (in seconds) and txmes what Asterisk itself measured: with a caller
    that sends no RTCP, and one packet in five dropped on the way to Asterisk, txmes falls to 20
    and rxmes stays 0. A score of 0 is none: the first comes with the first RTCP report, after 5 s.
    None for anything else.
    """
    fields = {name: float(value) for name, value in _FIELD.findall(text[:512])}
    if "rxcount" not in fields or "lp" not in fields:
        return None
    jitter_s = fields.get("txjitter")
    return LegQuality(
        fields["rxcount"],
        fields["lp"],
        None if jitter_s is None else jitter_s * 1000,
        fields.get("txmes") or None,
    )
