"""How busy this host is, read from /proc (proc(5)); nothing but the kernel is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CpuTimes:
    """Clock ticks since boot, over all CPUs."""

    busy: int
    total: int


def cpu_times(stat: str) -> CpuTimes:
    """From the text of /proc/stat. Waiting for a disk is not busy; guest time is in user time."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(
        int, stat.split("\n", 1)[0].split()[1:9]
    )
    busy = user + nice + system + irq + softirq + steal
    return CpuTimes(busy, busy + idle + iowait)


def busy_share(before: CpuTimes, after: CpuTimes) -> float:
    """Busy share of the time between two readings, 0 to 1."""
    total = after.total - before.total
    return min(1.0, max(0.0, (after.busy - before.busy) / total)) if total > 0 else 0.0


def read_cpu_times(proc: Path = Path("/proc")) -> CpuTimes:
    return cpu_times((proc / "stat").read_text())


def read_load1(proc: Path = Path("/proc")) -> float:
    """Mean length of the run queue over the last minute."""
    return float((proc / "loadavg").read_text().split()[0])
