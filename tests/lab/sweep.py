"""Ends everything one lab run left behind: its processes, its nft table, its folder.

Also a program of its own, the guard: `sweep.py LAB_PID NUMBER FOLDER` waits for the lab process to
die, by whatever, and sweeps after it. PR_SET_PDEATHSIG would be shorter, but it fires when the
*thread* that started a node ends, and it misses what a node forked.

Standard library only, so that the guard starts in 30 ms and needs no path.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "PBXCTL_LAB_RUN"
TOKEN = "token"  # in the run's folder: the value of MARK
SESSIONS = "sessions"  # in the run's folder: a line is the pid of a session's leader and its start
SWEEP_DEADLINE_S = 10.0


def table(number: int) -> str:
    return f"pbxctl_lab_{number}"


@dataclass(frozen=True)
class Process:
    """One line of /proc: state as ps shows it, started in ticks since boot."""

    pid: int
    state: str
    session: int
    started: int


def look_up(pid: int) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # "pid (comm) state ppid pgrp session ...", and comm may hold blanks and brackets
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(pid=pid, state=fields[0], session=int(fields[3]), started=int(fields[19]))


def living() -> Iterator[Process]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (process := look_up(int(entry))) and process.state != "Z":
            yield process


def processes(folder: Path) -> set[int]:
    """Live processes of the run: those that carry its mark, and members of sessions it started.

    Either alone misses some: redis-server overwrites its environment with its title, a daemon
    leaves its session. The mark is a random token, not the run's number: a container on this
    machine has its own locks and may use the same number.
    """
    try:
        token = (folder / TOKEN).read_text()
    except OSError:
        return set()  # the folder goes after the processes
    mark = f"{MARK}={token}".encode()
    sessions = _sessions(folder)
    found = set()
    for process in living():
        if process.pid == os.getpid():
            continue
        try:
            environ = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue  # it ended while we looked
        if process.session in sessions or mark in environ.split(b"\0"):
            found.add(process.pid)
    return found


def _sessions(folder: Path) -> set[int]:
    """Sessions that the run started, without those whose number the kernel gave away again."""
    try:
        lines = (folder / SESSIONS).read_text().splitlines()
    except OSError:
        return set()
    sessions = set()
    for line in lines:
        match line.split():
            case [pid, started]:  # else torn by the death of its writer
                leader = look_up(int(pid))
                if leader is None or leader.started == int(started):
                    sessions.add(int(pid))
    return sessions


def tmpfs(number: int) -> Path:
    """Where the run's recordings lie, in the lab root and outside of it under the same name."""
    return Path(f"/run/pbxctl-lab/{number}")


def unmount(number: int) -> None:
    """Every mount of the run's tmpfs, the last one first."""
    place = str(tmpfs(number))
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed(points):
        if point.endswith(place):
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def sweep(number: int, folder: Path) -> None:
    """Repeatable; raises TimeoutError if something cannot be killed within 10 s."""
    deadline = time.monotonic() + SWEEP_DEADLINE_S
    while alive := processes(folder):
        if time.monotonic() > deadline:
            raise TimeoutError(f"lab {number}: processes {sorted(alive)} do not die")
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    # "delete" minds an absent table; "destroy" would not, but Debian 12's nft 1.0.6 lacks it
    subprocess.run(
        ["nft", "delete", "table", "inet", table(number)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    unmount(number)
    shutil.rmtree(folder, ignore_errors=True)


def guard(lab_pid: int, number: int, folder: Path) -> None:
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    try:
        lab = os.pidfd_open(lab_pid)
        # A lab that died before that may have left its number to a stranger.
        if os.getppid() == lab_pid:
            select.select([lab], [], [])
    except ProcessLookupError:
        pass
    sweep(number, folder)


if __name__ == "__main__":
    guard(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
