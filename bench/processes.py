"""CPU time that processes have used, by /proc."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path


def cpu_s(pid: int) -> float:
    """User and system seconds of a living process, its living threads; to the nanosecond, which
    /proc/PID/stat with its ticks of 10 ms is too coarse for."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def whole_cpu_s(pid: int) -> float:
    """User and system seconds of a process with all threads it ever had, to the nanosecond: what a
    PBX does in a thread per call is gone from /proc/PID/task with the call."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3) of the process


def machine_ticks() -> tuple[int, int]:
    """Ticks that the CPUs of this machine were at work, or wanted to be, and those of them in which
    the host gave the CPU to other guests."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0]
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, first.split()[1:])
    return user + nice + system + irq + softirq + steal, steal


def session_pids(leader: int) -> list[int]:
    """Every process of the session that `leader` leads, itself included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int(_stat(int(entry.name))[3]) == leader:
                    found.append(int(entry.name))
            except (OSError, IndexError):
                continue  # it has just ended
    return found


def cpu_of_all_s(pids: Iterable[int]) -> float:
    return sum(cpu_s(pid) for pid in pids)


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat after the name, which may hold spaces and brackets."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()
