"""One second of sound from the middle of an hour, with nothing at hand but the unlocked provider.

Each seek opens keyring and key slots anew, has the provider unwrap the KEK, reads the slot, unwraps
the data key, derives, proves the last chunk and opens the chunks of one second at a random place.
The kernel is told to forget the files before each (POSIX_FADV_DONTNEED). The passphrase was
stretched before: scrypt's cost is meant to be felt, once a start of the vault; unlock_ms is that.
"""

from __future__ import annotations

import os
import random
import secrets
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, middle, percentile
from controller.vault import key_slots
from controller.vault.body import CHUNK, SEALED, Reader, Sealer
from controller.vault.header import Header
from controller.vault.key_slots import Entry, KeySlots, WritableKeySlots
from controller.vault.keys import file as key_file
from controller.vault.keys import keyring as rings
from controller.vault.keys.file import FileProvider
from controller.vault.keys.keyring import Keyring

SETUP = "one hour of 8 kHz stereo on disk"
SECOND_BYTES = 32_000
PASSPHRASE = "a passphrase of the bench"


def figures(*, quick: bool) -> list[Figure]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="pbxctl-bench-") as folder:
        return _figures(Path(folder), seeks=50 if quick else 1000)


def _figures(folder: Path, seeks: int) -> list[Figure]:
    header = Header("acme", "pbx1", secrets.token_hex(16), 1_700_000_000_000_000)
    data_key, audio_bytes = secrets.token_bytes(32), 3600 * SECOND_BYTES
    key_file.create(folder / "key", PASSPHRASE)
    began = time.perf_counter()
    provider = FileProvider(folder / "key", PASSPHRASE)
    unlock_s = time.perf_counter() - began
    number = _key_slot(folder, provider, header, data_key)
    plain = _body(folder / "body", header, data_key, audio_bytes)
    chance = random.Random(1)
    taken_ms = []
    for _ in range(seeks):
        second = chance.randrange(3600) * SECOND_BYTES
        for name in ("body", "slots", "keyring"):
            _forget(folder / name)
        began = time.perf_counter()
        found = _seek(folder, provider, header, number, second)
        taken_ms.append((time.perf_counter() - began) * 1000)
        if found != _expected(plain, second):
            raise RuntimeError(f"other sound than was sealed, at byte {second}")
    return [
        Figure("seek_p99_ms", percentile(taken_ms, 0.99),
               "from cold to the sound of one second, 99th percentile", "≤ 5"),
        Figure("seek_p50_ms", middle(taken_ms), "median of the same"),
        Figure("unlock_ms", unlock_s * 1000,
               "opening the key file with its passphrase, once a start"),
    ]  # fmt: skip


def _key_slot(folder: Path, provider: FileProvider, header: Header, data_key: bytes) -> int:
    rings.make(folder / "keyring")
    key_slots.make(folder / "slots")
    keyring = Keyring(folder / "keyring", provider, writable=True)
    slots = WritableKeySlots(folder / "slots", keyring)
    for tenant in range(100):  # a keyring of some size
        keyring.kek(f"tenant{tenant}", "2027-01", 1)
    [number] = slots.put([Entry(header.tenant, "2027-01", header.recording, data_key)], 1)
    slots.close()
    keyring.close()
    return number


def _body(path: Path, header: Header, data_key: bytes, audio_bytes: int) -> bytes:
    """A sealed hour of one random MiB again and again; returns that MiB."""
    plain = secrets.token_bytes(64 * CHUNK)
    sealer = Sealer(header.suite, data_key, header.encode(), secrets.token_bytes(24))
    out = bytearray(64 * SEALED)
    whole, rest = divmod(audio_bytes, CHUNK)
    with path.open("wb") as file:
        file.write(sealer.prologue)
        for first in range(0, whole, 64):
            count = min(64, whole - first)
            size = sealer.seal_into(first, memoryview(plain)[: count * CHUNK], out)
            file.write(memoryview(out)[:size])
        file.write(sealer.seal(whole, _expected(plain, whole * CHUNK)[:rest], last=True))
        os.fsync(file.fileno())
    return plain


def _expected(plain: bytes, at: int) -> bytes:
    start = at % len(plain)
    return (plain + plain)[start : start + SECOND_BYTES]


def _forget(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def _seek(folder: Path, provider: FileProvider, header: Header, number: int, at: int) -> bytes:
    keyring = Keyring(folder / "keyring", provider, writable=False)
    slots = KeySlots(folder / "slots", keyring)
    body = os.open(folder / "body", os.O_RDONLY)
    try:
        data_key = slots.data_key(number, header.tenant, header.recording)
        reader = Reader(
            header.suite,
            data_key,
            header.encode(),
            lambda offset, size: os.pread(body, size, offset),
            os.fstat(body).st_size,
            True,
        )
        return reader.read(at, SECOND_BYTES)
    finally:
        os.close(body)
        slots.close()
        keyring.close()
