"""Writes tests/data/vault anew: `python -m tests.unit.vault.vectors`.

Keys are fixed and known, but for what the code draws at random (envelopes, nonces, the key file).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from controller.vault import header as h
from controller.vault import key_slots, xwing
from controller.vault.body import CHUNK, Sealer
from controller.vault.key_slots import Entry, WritableKeySlots
from controller.vault.keys import file as key_file
from controller.vault.keys.file import FileProvider
from controller.vault.keys.keyring import Keyring, make

DATA = Path(__file__).parents[2] / "data" / "vault"
VAULT = DATA / "keys"
SUITES = ("cobblestone-256", "sm4-gcm")
PASSPHRASE = "a passphrase that everybody knows"
LOG_N = 14


def audio(size: int) -> bytes:
    """SHAKE-128 of "pbxctl test audio"."""
    return hashlib.shake_128(b"pbxctl test audio").digest(size)


def _recording(suite: str, number: int) -> None:
    data_key = hashlib.sha256(b"data key " + suite.encode()).digest()
    seed = hashlib.sha256(b"seed " + suite.encode()).digest()
    salt = hashlib.sha256(b"salt " + suite.encode()).digest()[:24]
    public = xwing.public_key(seed)
    header = h.Header("acme", "pbx-1", f"{number:032x}", 1_700_000_000_123_456, suite)
    particulars = h.Particulars("call-1", "+49301234", "4005551234", "queue sales", 90).encode()
    sealer = Sealer(suite, data_key, header.encode(), salt)
    sound = audio(2 * CHUNK + 1000)
    body = (
        sealer.prologue + sealer.seal(0, sound[:CHUNK]) + sealer.seal(1, sound[CHUNK : 2 * CHUNK])
    )
    body += sealer.seal(2, sound[2 * CHUNK :], last=True)
    (DATA / f"{suite}.body").write_bytes(body)
    document = {
        "body": f"{suite}.body",
        "header": header.encode().hex(),
        "data_key": data_key.hex(),
        "audio_sha256": hashlib.sha256(sound).hexdigest(),
        "private_key": seed.hex(),
        "particulars": particulars.decode(),
        "envelope": h.seal_envelope(
            public, xwing.key_id(public), header, data_key, particulars
        ).hex(),
    }
    (DATA / f"{suite}.json").write_text(json.dumps(document, indent=1) + "\n")


def _vault() -> None:
    VAULT.mkdir(exist_ok=True)
    for file in VAULT.iterdir():
        file.unlink()
    key_file.create(VAULT / "key.json", PASSPHRASE, log_n=LOG_N)
    make(VAULT / "keyring")
    key_slots.make(VAULT / "slots")
    keyring = Keyring(
        VAULT / "keyring", FileProvider(VAULT / "key.json", PASSPHRASE), writable=True
    )
    slots = WritableKeySlots(VAULT / "slots", keyring)
    recording, data_key = f"{1:032x}", hashlib.sha256(b"data key cobblestone-256").digest()
    slots.put([Entry("acme", "2027-01", recording, data_key)], 1)
    slots.close()
    keyring.close()
    for name, slot_bytes in (("keyring", 2048), ("slots", 128)):
        (VAULT / f"{name}.journal").unlink()
        os.truncate(VAULT / name, 4096 + slot_bytes)  # a small file for the repository
    document = {
        "passphrase": PASSPHRASE,
        "tenant": "acme",
        "recording": recording,
        "data_key": data_key.hex(),
    }
    (VAULT / "vault.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(SUITES, 1):
        _recording(name, place)
    _vault()
