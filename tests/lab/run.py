"""One lab run: a number that nobody else on this machine has, and what follows from it.

    number   N from 100 to 199, held by a lock file
    network  127.0.N.0/24, one address a node
    folder   ROOT/lab/N, inside the lab root so that a chroot sees it as /lab/N without a mount
    table    nft table inet pbxctl_lab_N, made at the first cut

The lab and its guard hold the lock together: a number is free once both are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tests.lab import sweep

NUMBERS = range(100, 200)
LOCKS = Path("/run/lock/pbxctl-lab")
FIRST_HOST, LAST_HOST = 11, 250


class LabError(Exception):
    """Something is wrong with the lab itself, not with what is being tested."""


class LabUnusable(LabError):
    """This machine cannot run the lab; the message says what to do."""


def lab_root() -> Path:
    """The tree with Asterisk and SIPp. Raises LabUnusable."""
    cache = Path(os.environ.get("PBXCTL_LAB_CACHE") or "/var/cache/pbxctl/lab")
    root = cache / "asterisk-root"
    if not (root / ".pbxctl-ready").exists():
        raise LabUnusable(f"no lab root in {root}: run make setup")
    if os.geteuid() != 0:
        raise LabUnusable("the lab needs root (chroot, nft): run as root")
    return root


def _name_alike(root: Path) -> None:
    """Has a path below the root mean the same to a process in the chroot."""
    alike = root / root.relative_to("/")
    alike.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # from an earlier run, or one beside us
        alike.symlink_to("/")


class Run:
    """Holds a number from construction to `close`, and sweeps what dead labs left behind."""

    def __init__(self, root: Path) -> None:
        self.root = root
        LOCKS.mkdir(parents=True, exist_ok=True)
        for number in NUMBERS:
            if (lock := _lock(number)) is not None:
                break
        else:
            raise LabUnusable(f"all {len(NUMBERS)} lab numbers are taken, see {LOCKS}")
        self.number, self._lock = number, lock
        self.folder = root / "lab" / str(number)
        sweep.sweep(number, self.folder)
        _sweep_dead(root)
        self.folder.mkdir(parents=True)
        _name_alike(root)
        self._token = secrets.token_hex(16)
        (self.folder / sweep.TOKEN).write_text(self._token)
        self._hosts = iter(range(FIRST_HOST, LAST_HOST + 1))  # `next` on it is atomic
        self._cut: set[tuple[str, str]] = set()
        self._table_made = False
        env = {k: v for k, v in os.environ.items() if k != sweep.MARK}
        whose = [str(os.getpid()), str(self.number), str(self.folder)]
        self._guard = subprocess.Popen(
            [sys.executable, "-S", "-E", sweep.__file__, *whose],
            env=env,
            pass_fds=[self._lock],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )

    @property
    def guard_pid(self) -> int:
        return self._guard.pid

    def close(self) -> None:
        sweep.sweep(self.number, self.folder)
        self._guard.kill()
        self._guard.wait()
        os.close(self._lock)

    def address(self) -> str:
        """An address nobody had before in this run."""
        host = next(self._hosts, None)
        if host is None:
            raise LabUnusable(f"127.0.{self.number}.0/24 is used up: take a new Lab")
        return f"127.0.{self.number}.{host}"

    def inside(self, path: Path) -> PurePosixPath:
        """`path` as a process in the chroot names it."""
        return PurePosixPath("/") / path.relative_to(self.root)

    def tmpfs(self, size_mb: int = 64, options: str = "noswap") -> Path:
        """A fresh tmpfs that programs in the chroot know by the same path."""
        place = sweep.tmpfs(self.number)
        sweep.unmount(self.number)
        inside = self.root / place.relative_to("/")
        for point, argv in (
            (place, ["-t", "tmpfs", "-o", f"size={size_mb}m,mode=0711,{options}", "tmpfs"]),
            (inside, ["--bind", str(place)]),
        ):
            point.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", *argv, str(point)], check=True, capture_output=True)
        return place

    def spawn(
        self, argv: list[str], *, log: Path, cwd: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a program in a session of its own; it ends with this run at the latest."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                argv,
                env=os.environ | dict(environment or {}) | {sweep.MARK: self._token},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,
            )
        if leader := sweep.look_up(process.pid):  # at least as a zombie: nobody waited for it yet
            with (self.folder / sweep.SESSIONS).open("a") as sessions:
                sessions.write(f"{process.pid} {leader.started}\n")
        return process

    def cut(self, address: str) -> None:
        """From now on no packet from or to `address` arrives; nobody is told."""
        self._drop("cut", address)

    def deafen(self, address: str) -> None:
        """From now on SIP over UDP to `address` does not arrive; all else does."""
        self._drop("deaf", address)

    def thin_out(self, address: str) -> None:
        """From now on one RTP packet in five to `address` is lost."""
        self._drop("thin", address)

    def _drop(self, what: str, address: str) -> None:
        name = sweep.table(self.number)
        if not self._table_made:
            # The input hook alone: a drop on output would show the sender an EPERM, which no
            # broken cable does. Loopback packets pass input once, at their receiver.
            _nft(
                f"""table inet {name} {{
                    set cut {{ type ipv4_addr; }}
                    set deaf {{ type ipv4_addr; }}
                    set thin {{ type ipv4_addr; }}
                    chain arrive {{
                        type filter hook input priority -300; policy accept;
                        ip saddr @cut drop
                        ip daddr @cut drop
                        ip daddr @deaf udp dport 5060 drop
                        ip daddr @thin udp dport >= 10000 numgen random mod 5 == 0 drop
                    }}
                }}"""
            )
            self._table_made = True
        _nft(f"add element inet {name} {what} {{ {address} }}")
        self._cut.add((what, address))

    def heal(self, address: str) -> None:
        for what in ("cut", "deaf", "thin"):
            if (what, address) in self._cut:
                _nft(f"delete element inet {sweep.table(self.number)} {what} {{ {address} }}")
                self._cut.discard((what, address))


def _lock(number: int) -> int | None:
    """The lock of a number that nobody holds, now ours until it is closed; None if it is held."""
    lock = os.open(LOCKS / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _sweep_dead(root: Path) -> None:
    """After labs whose guard died with them."""
    for folder in (root / "lab").glob("[0-9]*"):
        if (lock := _lock(int(folder.name))) is not None:
            sweep.sweep(int(folder.name), folder)
            os.close(lock)


def _nft(text: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True)
    if done.returncode:
        raise LabUnusable(f"nft refused: {done.stderr.strip()} (in a container: add NET_ADMIN)")
