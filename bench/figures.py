"""What a bench hands back, and how it is shown: figures with their units, meanings and goals."""

from __future__ import annotations

import math
import operator
import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

Value = float | int | str
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {"≤": operator.le, "≥": operator.ge}


@dataclass(frozen=True)
class Figure:
    """One measured value. key: ends in its unit, or names a ratio. goal: as in "≤ 250", or ""."""

    key: str
    value: Value
    means: str
    goal: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one. NaN, which is no measurement, is not."""
        if not self.goal:
            return None
        sign, limit = self.goal.split()
        return bool(_COMPARE[sign](self.value, float(limit)))


@dataclass(frozen=True)
class Report:
    """One bench's outcome. setup: what was run, in words a reader can repeat it by."""

    bench: str
    quick: bool
    setup: str
    figures: tuple[Figure, ...]

    def document(self) -> dict[str, Any]:
        """Keys at the top, for machines; beside them what people need to judge them."""
        return {
            **{f.key: _rounded(f.value) for f in self.figures},
            "bench": self.bench,
            "quick": self.quick,
            "setup": self.setup,
            "means": {f.key: f.means for f in self.figures},
            "goals": {f.key: {"goal": f.goal, "met": f.met} for f in self.figures if f.goal},
            **circumstances(),
        }

    def table(self) -> str:
        rows = [("figure", "value", "goal", "", "meaning")]
        for f in self.figures:
            met = {None: "", True: "met", False: "MISSED"}[f.met]
            rows.append((f.key, str(_rounded(f.value)), f.goal, met, f.means))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row[:4], widths, strict=True))
            + "  "
            + row[4]
            for row in rows
        ]
        return "\n".join([f"{self.bench}: {self.setup}", *lines])


def circumstances() -> dict[str, Any]:
    """Where and when: the machine in words, the load it has, the date."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "machine": f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}, "
        f"Linux {platform.release()}, Python {platform.python_version()}",
        "load_average_1m": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip()


def _rounded(value: Value) -> Value | None:
    """Four digits that count; None for what could not be measured, which JSON has no number for."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them keep (nearest rank); NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def middle(values: Sequence[float]) -> float:
    return median(values) if values else math.nan
