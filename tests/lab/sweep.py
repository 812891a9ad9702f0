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
from pathlib import Path

MARK = "PBXCTL_LAB_RUN"
SESSIONS = "sessions"  # in the run's folder: one started process a line, each leads a session
SWEEP_DEADLINE_S = 10.0


def table(number: int) -> str:
    return f"pbxctl_lab_{number}"


def processes(number: int, folder: Path) -> set[int]:
    """Live processes of the run: those that carry its mark, and members of sessions it started.

    Either alone misses some: redis-server overwrites its environment with its title, a daemon
    leaves its session.
    """
    mark = f"{MARK}={number}".encode()
    try:
        sessions = {int(line) for line in (folder / SESSIONS).read_text().split()}
    except OSError:
        sessions = set()
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
            # "pid (comm) state ppid pgrp session ...", and comm may hold blanks and brackets
            state, _, _, session = stat[stat.rindex(")") + 2 :].split()[:4]
            if state == "Z":
                continue
            environ = Path(f"/proc/{entry}/environ").read_bytes()
        except OSError:
            continue  # it ended while we looked
        if int(session) in sessions or mark in environ.split(b"\0"):
            found.add(int(entry))
    return found


def sweep(number: int, folder: Path) -> None:
    """Repeatable; raises TimeoutError if something cannot be killed within 10 s."""
    deadline = time.monotonic() + SWEEP_DEADLINE_S
    while alive := processes(number, folder):
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
