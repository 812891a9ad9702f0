"""The Kamailio edges of this machine: whether they run, and on a version that bears TLS."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from controller.config import Config
from controller.doctor.finding import Finding, fail, ok, warn
from controller.render.files import folder_of

ASK_S = 2.0
# Before it, workers share OpenSSL 3's memory without its knowledge: kamailio/kamailio issue 3791.
TLS_FLOOR = (5, 8)


def check_edges(config: Config) -> list[Finding]:
    """Nothing of edges that were not rendered on this machine."""
    tls = config.security.signalling == "tls"
    folders = {name: folder_of(config, name) for name in config.edges}
    return [
        judge_edge(name, _version(folder / "ctl"), tls, folder)
        for name, folder in folders.items()
        if (folder / "kamailio.cfg").exists()
    ]


def judge_edge(name: str, told: str | None, tls: bool, folder: Path) -> Finding:
    """told: what `kamcmd core.version` printed, None when it could not be asked."""
    if told is None:
        return warn(
            name, "kamailio", f"no Kamailio answers at {folder / 'ctl'}",
            f"start it: kamailio -f {folder / 'kamailio.cfg'}, or ask on the machine where it runs",
        )  # fmt: skip
    found = re.search(r"kamailio (\d+)\.(\d+)\S*", told)
    if found is None:
        return warn(name, "kamailio", f"its version cannot be told from {told[:60]!r}",
                    "look whether it is Kamailio that answers there")  # fmt: skip
    if tls and (int(found[1]), int(found[2])) < TLS_FLOOR:
        floor = ".".join(map(str, TLS_FLOOR))
        return fail(
            name, "kamailio", f"{found[0]} with TLS corrupts its memory, then dies or hangs",
            f"{floor} or later: Debian 13 has 6.0, kamailio.org has packages for Debian 12",
        )  # fmt: skip
    return ok(name, "kamailio", f"{found[0]} answers")


def _version(socket: Path) -> str | None:
    try:
        done = subprocess.run(
            ["kamcmd", "-s", f"unix:{socket}", "core.version"],
            capture_output=True, text=True, errors="replace", timeout=ASK_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
