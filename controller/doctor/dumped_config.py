"""FreeSWITCH's whole config in one file: it writes what it has read, passwords and all, as
freeswitch.xml.fsxml into its log folder, with the rights that its umask leaves."""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path

from controller.doctor.finding import Finding, fail, ok, warn

CHECK = "dumped config"
FILE = "freeswitch.xml.fsxml"
PATH_MAX_CHARS = 1024


def judge_dump(name: str, path: str, file_mode: int, folder_mode: int) -> Finding:
    """Modes as stat has them. A file is open when others may read it and enter its folder."""
    if file_mode & stat.S_IROTH and folder_mode & stat.S_IXOTH:
        return fail(
            name,
            CHECK,
            f"{path} holds passwords and is readable by everybody",
            f"start FreeSWITCH with umask 0077 (systemd: UMask=0077), and: chmod 600 {path}",
        )
    return ok(name, CHECK, f"{path} is closed to others")


def check_dump(name: str, control_host: str, log_dir: str) -> Finding:
    """log_dir: what the node says. Only a node of this machine can be looked at."""
    try:
        here = ipaddress.ip_address(control_host).is_loopback
    except ValueError:
        here = control_host == "localhost"
    if not here or not log_dir.startswith("/") or len(log_dir) > PATH_MAX_CHARS:
        return ok(name, CHECK, "not looked at: the node is on another machine")
    path = Path(log_dir) / FILE
    try:
        return judge_dump(name, str(path), path.stat().st_mode, path.parent.stat().st_mode)
    except FileNotFoundError:
        return ok(name, CHECK, "not on this machine")
    except (OSError, ValueError) as error:
        return warn(name, CHECK, f"{path}: {error}", "run the doctor as root to look there")
