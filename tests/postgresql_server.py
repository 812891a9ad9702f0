"""A real PostgreSQL of our own, where Debian's is installed, to be killed, frozen and followed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self


def program(name: str) -> Path | None:
    found = [*Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    return found[0] if found else Path(p) if (p := shutil.which(name)) else None


def is_installed() -> bool:
    names = {u.pw_name for u in pwd.getpwall()}
    return "postgres" in names and program("initdb") is not None


class PostgresqlServer:
    """Running from entry to exit. follows: whose standby it is."""

    def __init__(self, address: str, port: int, follows: PostgresqlServer | None = None) -> None:
        self.address, self.port = address, port
        self._follows = follows
        self._folder = Path(tempfile.mkdtemp(prefix="pbxctl-pg"))
        self._data = self._folder / "data"

    def __enter__(self) -> Self:
        shutil.chown(self._folder, "postgres")
        if other := self._follows:
            source = ["-h", other.address, "-p", str(other.port), "-U", "postgres"]
            self._run("pg_basebackup", *source, "-D", self._data, "-R", "--checkpoint=fast")
        else:
            self._run("initdb", "-D", self._data, "-A", "trust", "--no-sync")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.kill()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        options = f"-c listen_addresses={self.address} -c port={self.port} -k {self._folder}"
        self._run("pg_ctl", "-D", self._data, "-o", options, "-l", self._folder / "log", "-w",
                  "start")  # fmt: skip

    def promote(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "promote")

    def kill(self) -> None:
        """All of its processes at once, as a machine does that loses its power."""
        self._signal(signal.SIGKILL)
        for path in (self._data / "postmaster.pid", *self._folder.glob(".s.PGSQL.*")):
            path.unlink(missing_ok=True)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        try:
            postmaster = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except FileNotFoundError:
            return
        # The postmaster first: it must not see its children end, nor make new ones.
        for pid in (postmaster, *_children(postmaster)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _run(self, name: str, *words: str | Path) -> None:
        found = program(name)
        assert found
        asked = ["runuser", "-u", "postgres", "--", str(found), *map(str, words)]
        done = subprocess.run(
            asked, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, (name, self._log())

    def _log(self) -> str:
        path = self._folder / "log"
        return path.read_text() if path.exists() else ""


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found
