"""One file on its way to a PBX's folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """text, mode; keep: written only where there is none yet."""

    text: str
    mode: int = 0o644
    keep: bool = False
