"""A machine with systemd as its first process, for the units: this one's own root, whose
changes are kept in memory, without its network and without its services (systemd-nspawn)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.until import until

TOP = Path(__file__).resolve().parents[2]
UNITS = TOP / "deploy" / "systemd"
BOOT_S = 30.0
SOURCE, PROGRAM = Path("/opt/src"), Path("/opt/pbxctl")  # inside; PROGRAM is what the units name
# The repository under another name: the units hide /home and /root, where it may well lie.
RUN = f"""#!/bin/sh
export PYTHONPATH={SOURCE}
exec {SOURCE}/.venv/bin/python -m controller.cli "$@"
"""


class Machine:
    """It runs from construction to `stop`. leader: its first process, as we see it."""

    def __init__(self, folder: Path) -> None:
        systemd, program = folder / "systemd", folder / "bin"
        shutil.copytree(UNITS, systemd, ignore=shutil.ignore_patterns("pbxctl.*s"))
        program.mkdir()
        (program / "pbxctl").write_text(RUN)
        (program / "pbxctl").chmod(0o755)
        self._log = folder / "console.log"
        self._memory, root = folder / "memory", folder / "root"
        for place in (self._memory, root):
            place.mkdir()
        _mount("tmpfs", self._memory, "size=512m")
        for name in ("changed", "work"):
            (self._memory / name).mkdir()
        layers = f"lowerdir=/,upperdir={self._memory}/changed,workdir={self._memory}/work"
        _mount("overlay", root, layers)
        self._root = root
        argv = ["systemd-nspawn", "--boot", f"--directory={root}", "--quiet"]
        argv += ["--register=no", "--keep-unit", "--private-network", "--console=pipe"]
        argv += [f"--machine=pbxctl-test-{os.getpid()}"]
        # In place of what is enabled here: none of this machine's services runs there.
        argv += [f"--bind-ro={systemd}:/etc/systemd/system", f"--bind-ro={TOP}:{SOURCE}"]
        argv += [
            f"--bind-ro={program}:{PROGRAM}/bin",
            f"--bind-ro={program}/pbxctl:/usr/bin/pbxctl",
        ]
        for name in ("sysusers", "tmpfiles"):
            argv += [f"--bind-ro={UNITS}/pbxctl.{name}:/usr/lib/{name}.d/pbxctl.conf"]
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self._leader = 0

    def boot(self) -> None:
        """Skips the test where the machine cannot be had at all."""

        def up() -> bool:
            if self._process.poll() is not None:
                pytest.skip(f"systemd-nspawn does not run here: {self.log_end()}")
            found = _children(self._process.pid)
            self._leader = found[0] if found else 0
            return bool(found) and self("systemctl is-system-running").strip() in STATES

        until(up, BOOT_S, "systemd is up")

    def __call__(self, command: str) -> str:
        """Runs a line of shell there as root; its output, errors included."""
        return self.run(command).stdout

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
        return subprocess.run(
            ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C",
             "sh", "-c", command],
            env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
        )  # fmt: skip

    def show(self, unit: str, what: str) -> str:
        return self(f"systemctl show --value -p {what} {unit}").strip()

    def log_end(self) -> str:
        return self._log.read_text(errors="replace")[-1500:]

    def stop(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._leader:
                self("systemctl --no-block poweroff")
            self._process.wait(20)
        self._process.kill()
        self._process.wait()
        for place in (self._root, self._memory):
            subprocess.run(["umount", "-l", place], check=True)


#: of a boot that is over; "degraded" is about units of Debian's that a container cannot have
STATES = ("running", "degraded")


def _mount(kind: str, place: Path, options: str) -> None:
    subprocess.run(["mount", "-t", kind, "-o", options, kind, place], check=True)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextlib.contextmanager
def booted() -> Iterator[Machine]:
    if os.geteuid() or shutil.which("systemd-nspawn") is None:
        pytest.skip("needs root and systemd-nspawn (Debian: systemd-container)")
    folder = Path(tempfile.mkdtemp(prefix="pbxctl-machine-"))
    machine = Machine(folder)
    try:
        machine.boot()
        yield machine
    finally:
        machine.stop()
        shutil.rmtree(folder, ignore_errors=True)
