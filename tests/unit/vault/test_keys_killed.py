"""Killed at any moment: a rotation goes on, and what was told as written or destroyed is so."""

from __future__ import annotations

import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from controller.vault import key_slots
from controller.vault.key_slots import Entry, WritableKeySlots
from controller.vault.keys import file as key_file
from controller.vault.keys import keyring as k
from controller.vault.keys.file import FileProvider
from controller.vault.slots_writing import WritableSlots, create

PASSPHRASE = "correct horse battery"
REPOSITORY = Path(__file__).resolve().parents[3]
RECORDINGS = 12_000
KILLS = 25

_ROTATE = """
import sys
from pathlib import Path
from controller.vault.key_slots import WritableKeySlots
from controller.vault.keys.file import FileProvider
from controller.vault.keys.keyring import Keyring
folder = Path(sys.argv[1])
keyring = Keyring(folder / "keyring", FileProvider(folder / "key", sys.argv[2]), writable=True)
slots = WritableKeySlots(folder / "slots", keyring)
print("ready", flush=True)
for number in range(1000):
    for progress in slots.rotate(number, batch=128):
        pass
"""


def test_killed_at_random_moments(tmp_path: Path) -> None:
    key_file.create(tmp_path / "key", PASSPHRASE, log_n=14)
    provider = FileProvider(tmp_path / "key", PASSPHRASE)
    k.make(tmp_path / "keyring")
    key_slots.make(tmp_path / "slots")
    keyring = k.Keyring(tmp_path / "keyring", provider, writable=True)
    slots = WritableKeySlots(tmp_path / "slots", keyring)
    entries = [
        Entry(f"t{i % 4}", "2027-01", secrets.token_hex(16), secrets.token_bytes(32))
        for i in range(RECORDINGS)
    ]
    numbers = slots.put(entries, 1)
    first_keks = set(keyring.keks())
    slots.close()
    keyring.close()
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    journals = midway = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", _ROTATE, str(tmp_path), PASSPHRASE],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        journals += bool((tmp_path / "slots.journal").read_bytes().strip(b"\0"))
        keyring = k.Keyring(tmp_path / "keyring", provider, writable=False)
        midway += keyring.rotating
        keyring.close()

    keyring = k.Keyring(tmp_path / "keyring", provider, writable=True)
    slots = WritableKeySlots(tmp_path / "slots", keyring)
    if keyring.rotating:
        list(slots.rotate(2000))
    for number, entry in zip(numbers, entries, strict=True):
        key = slots.data_key(number, entry.tenant, entry.recording)
        assert key == entry.data_key, f"seed {seed}"
    assert not first_keks & set(keyring.keks())
    assert len(keyring.keks()) == 4
    assert not keyring.rotating
    assert slots.used == RECORDINGS
    # The kills must have hit what they aim at.
    assert midway > KILLS // 2, f"seed {seed}: {midway} of {KILLS} kills hit a rotation"
    assert journals > 0, f"seed {seed}: no kill hit a batch"
    slots.close()
    keyring.close()


_WORK = """
import os, random, sys
from pathlib import Path
from controller.vault.slots_writing import WritableSlots
slots = WritableSlots(Path(sys.argv[1]))
kept = []
print("ready", flush=True)
while True:
    owner = os.urandom(16)
    number = slots.write(owner, b"key of " + owner)
    print("written", number, owner.hex(), flush=True)
    kept.append((number, owner))
    if random.random() < 0.5:
        number, owner = kept.pop(random.randrange(len(kept)))
        print("dooms", number, owner.hex(), flush=True)
        slots.destroy(number, owner)
        print("destroyed", number, owner.hex(), flush=True)
    if random.random() < 0.2:
        for _ in slots.rewrap(lambda owner, payload: payload[:7] + owner, batch=8):
            pass
"""


def test_what_was_told_before_the_kill_is_so(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    create(path, 128)
    told: list[list[str]] = []
    for _ in range(15):
        process = subprocess.Popen(
            [sys.executable, "-c", _WORK, str(path)], stdout=subprocess.PIPE, cwd=REPOSITORY
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        said = [process.stdout.readline() for _ in range(random.randrange(10, 60))]
        time.sleep(random.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = (b"".join(said) + process.stdout.read()).decode().split("\n")
        told += [line.split() for line in lines[:-1]]
        process.stdout.close()
    doomed = {owner for word, _, owner in told if word == "dooms"}
    destroyed = {owner for word, _, owner in told if word == "destroyed"}
    slots = WritableSlots(path)
    assert slots.damaged() == []
    for word, number, owner in told:
        if word == "written" and owner not in doomed:
            payload = slots.read(int(number), bytes.fromhex(owner))
            assert payload == b"key of " + bytes.fromhex(owner)
    assert not destroyed & {owner.hex() for _, owner, _ in slots.items()}
    content = path.read_bytes() + path.with_name("slots.journal").read_bytes()
    assert all(b"key of " + bytes.fromhex(owner) not in content for owner in destroyed)
    assert len(destroyed) > 15
    slots.close()
