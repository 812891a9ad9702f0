"""A million key slots: put under new KEKs, and erased one by one, on a real disk with its syncs.

120 KEKs (10 tenants, 12 periods) are wrapped by a key file. Beside the slots lie sealed bodies, of
which nothing may be read or written: those that changed (times, sizes, hashes) are counted, and
what the process read while it rotated, which is the slots once and nothing besides.
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import tempfile
import threading
import time
from pathlib import Path

from bench.figures import Figure, percentile
from controller.vault import key_slots
from controller.vault.body import CHUNK, Sealer
from controller.vault.key_slots import Entry, WritableKeySlots
from controller.vault.keys import file as key_file
from controller.vault.keys import keyring as rings
from controller.vault.keys.file import FileProvider
from controller.vault.keys.keyring import Keyring

SETUP = "key slots of 128 bytes under 120 KEKs on the disk of /var/tmp"
PASSPHRASE = "a passphrase of the bench"
BODIES = 200
AT_ONCE = 10_000

Kept = list[tuple[int, str]]


def figures(*, quick: bool) -> list[Figure]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="pbxctl-bench-") as folder:
        return _figures(Path(folder), slots=100_000 if quick else 1_000_000)


def _figures(folder: Path, slots: int) -> list[Figure]:
    key_file.create(folder / "key", PASSPHRASE, log_n=14)
    rings.make(folder / "keyring")
    key_slots.make(folder / "slots")
    keyring = Keyring(folder / "keyring", FileProvider(folder / "key", PASSPHRASE), writable=True)
    vault = WritableKeySlots(folder / "slots", keyring)
    try:
        began = time.perf_counter()
        kept = _fill(vault, slots)
        fill_s = time.perf_counter() - began
        before, read_before = _bodies(folder / "bodies"), _read_bytes()
        rotate_s, changed = _rotate(vault, 2)
        read = _read_bytes() - read_before
        touched = _changed(before, folder / "bodies")
        if changed != slots:
            raise RuntimeError(f"{changed} of {slots} slots were rotated")
        chance = random.Random(1)
        chance.shuffle(kept)
        half = len(kept) // 2
        alone_ms = _erase(vault, kept[: min(500, half)])
        beside_ms = _erase_while_rotating(vault, kept[half : half + 500])
    finally:
        vault.close()
        keyring.close()
    name = "1m" if slots == 1_000_000 else f"{slots // 1000}k"
    return [
        Figure(f"rotate_{name}_s", rotate_s,
               f"{slots:,} data keys put under new KEKs, the old ones destroyed",
               "≤ 60" if name == "1m" else ""),
        Figure("rotate_body_bytes", touched, "bytes of bodies that rotating changed", "≤ 0"),
        Figure("rotate_read_ratio", read / (folder / "slots").stat().st_size,
               "bytes read while rotating over the file's size; 1: nothing else was read"),
        Figure("fill_per_s", slots / fill_s, f"slots written a second, {AT_ONCE:,} a sync"),
        Figure("erase_p99_ms", percentile(alone_ms, 0.99),
               "one slot destroyed and synced, 99th percentile", "≤ 1000"),
        Figure("erase_rotating_p99_ms", percentile(beside_ms, 0.99),
               "the same while a rotation runs", "≤ 1000"),
    ]  # fmt: skip


def _fill(vault: WritableKeySlots, slots: int) -> Kept:
    kept: Kept = []
    while len(kept) < slots:
        keys = os.urandom(32 * AT_ONCE)
        entries = [
            Entry(f"tenant{i % 10}", f"2027-{i % 12 + 1:02}", secrets.token_hex(16),
                  keys[32 * i : 32 * i + 32])
            for i in range(min(AT_ONCE, slots - len(kept)))
        ]  # fmt: skip
        numbers = vault.put(entries, 1)
        kept += zip(numbers, (entry.recording for entry in entries), strict=True)
    return kept


def _rotate(vault: WritableKeySlots, now_us: int) -> tuple[float, int]:
    """(seconds, slots that changed)"""
    changed = 0
    began = time.perf_counter()
    for progress in vault.rotate(now_us):
        changed = progress.changed
    return time.perf_counter() - began, changed


def _erase(vault: WritableKeySlots, doomed: Kept) -> list[float]:
    taken_ms = []
    for number, recording in doomed:
        began = time.perf_counter()
        if not vault.destroy(number, recording):
            raise RuntimeError("there was nothing to erase")
        taken_ms.append((time.perf_counter() - began) * 1000)
    return taken_ms


def _erase_while_rotating(vault: WritableKeySlots, doomed: Kept) -> list[float]:
    """Only erasures count that were asked for while the rotation ran."""
    rotation = threading.Thread(target=_rotate, args=(vault, 3))
    taken_ms: list[float] = []
    rotation.start()
    for each in doomed:
        if not rotation.is_alive():
            break
        taken_ms += _erase(vault, [each])
        time.sleep(0.005)
    rotation.join()
    return taken_ms


def _bodies(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    if not folder.exists():
        folder.mkdir()
        sealer = Sealer("cobblestone-256", bytes(32), b"", bytes(24))
        for number in range(BODIES):
            last = sealer.seal(1, bytes(100), last=True)
            body = sealer.prologue + sealer.seal(0, bytes(CHUNK)) + last
            (folder / str(number)).write_bytes(body)
    return {path.name: _seen(path) for path in folder.iterdir()}


def _seen(path: Path) -> tuple[int, int, int, bytes]:
    stat, content = path.stat(), path.read_bytes()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, hashlib.sha256(content).digest()


def _changed(before: dict[str, tuple[int, int, int, bytes]], folder: Path) -> int:
    after = _bodies(folder)
    names = before.keys() | after.keys()
    return sum(
        max(b[0] for b in (before.get(n), after.get(n)) if b)
        for n in names
        if before.get(n) != after.get(n)
    )


def _read_bytes() -> int:
    """What this process has read so far by any read call, from /proc/self/io."""
    [line] = [
        each for each in Path("/proc/self/io").read_text().splitlines() if each.startswith("rchar")
    ]
    return int(line.split()[1])
