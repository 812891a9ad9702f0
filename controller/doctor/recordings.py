"""Whether calls can be recorded on this machine: the tmpfs, the spool's room, the vault."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path

from controller.agent.spool import FREE_MIN_BYTES
from controller.agent.tmpfs import MOUNTS, SWAPS, problem_of
from controller.config import Config, split_address
from controller.config_recordings import RecordingsConfig
from controller.doctor.finding import Finding, fail, ok, warn

REACH_S = 2.0
_ABOUT = "recordings"


def check_recordings(config: Config) -> list[Finding]:
    """Nothing where the config has no recordings. Looks at this machine, not at the nodes'."""
    if config.recordings is None:
        return []
    return [
        check_tmpfs(config.recordings),
        check_spool(config.state_path, config.recordings.spool_max_mb << 20),
        check_swap(_swaps()),
        check_vault(config.takes_recordings),
    ]


def check_tmpfs(
    recordings: RecordingsConfig, mounts: Path = MOUNTS, swaps: Path = SWAPS
) -> Finding:
    folder = Path(recordings.folder)
    noswap = "noswap," if recordings.noswap else ""
    if problem := problem_of(folder, noswap=recordings.noswap, mounts=mounts, swaps=swaps):
        mount = (
            f"on each node: mkdir -p {folder} && mount -t tmpfs -o {noswap}mode=0711,"
            f"size={recordings.tmpfs_mb}m tmpfs {folder} (pbxctl render writes the unit)"
        )
        return fail(
            _ABOUT, "tmpfs", f"nothing is recorded here: {problem}",
            "swapoff -a, and out of /etc/fstab; or a kernel from 6.4 on with noswap: true"
            if "swaps to" in problem else mount,
        )  # fmt: skip
    if not recordings.noswap:
        return ok(_ABOUT, "tmpfs", f"{folder}, as long as this machine has no swap")
    return ok(_ABOUT, "tmpfs", f"{folder} is never swapped out")


def check_spool(state: Path, spool_bytes: int) -> Finding:
    with contextlib.suppress(OSError):
        place = next(p for p in (state, *state.parents) if p.exists())
        facts = os.statvfs(place)
        free = facts.f_bavail * facts.f_frsize
        if free < spool_bytes + FREE_MIN_BYTES:
            return warn(
                _ABOUT, "spool", f"{free >> 20} MiB are free of {spool_bytes >> 20} for the spool",
                "make room where state_dir is, or lower recordings.spool_max_mb",
            )  # fmt: skip
        return ok(_ABOUT, "spool", f"{free >> 20} MiB are free")
    return warn(_ABOUT, "spool", f"{state} cannot be looked at", "run as the agent's user")


def _swaps() -> str:
    try:
        return Path("/proc/swaps").read_text()
    except FileNotFoundError:  # a kernel without swap, or a /proc of processes alone
        return ""


def check_swap(swaps: str) -> Finding:
    """swaps: the text of /proc/swaps. The tmpfs stays out of it, and the agent locks its memory."""
    if not swaps.splitlines()[1:]:
        return ok(_ABOUT, "swap", "this machine has none")
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft in (resource.RLIM_INFINITY, -1) or os.geteuid() == 0:
        return ok(_ABOUT, "swap", "the agent can lock its memory; the PBX's own buffers cannot be")
    return warn(
        _ABOUT, "swap", f"an agent of this user may lock {soft >> 10} KiB, and needs all",
        "LimitMEMLOCK=infinity in the agent's unit, or encrypt the swap",
    )  # fmt: skip


def check_vault(address: str) -> Finding:
    try:
        socket.create_connection(split_address(address), REACH_S).close()
    except OSError as error:
        return fail(
            _ABOUT, "vault", f"{address} does not answer: {error.strerror or error}",
            "start `pbxctl run vault` there, or mend recordings.vault; nodes spool meanwhile",
        )  # fmt: skip
    return ok(_ABOUT, "vault", f"{address} answers")
