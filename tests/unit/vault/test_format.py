"""docs/vault-format.md, the vectors in tests/data/vault and the code say the same.

`python -m tests.unit.vault.vectors` writes the vectors anew; a change of theirs is a change of the
format, and readers out there would no longer open what was sealed before.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from controller.vault import header as h
from controller.vault import key_slots, xwing
from controller.vault.body import Reader, Sealer
from controller.vault.key_slots import Entry, KeySlots, WritableKeySlots
from controller.vault.keys import file as key_file
from controller.vault.keys.file import FileProvider
from controller.vault.keys.keyring import Keyring, make
from controller.vault.sm4 import GcryptSm4Gcm, OpensslSm4Gcm, Sm4Gcm, gcrypt
from tests.unit.vault import second_reader as second
from tests.unit.vault.vectors import DATA, SUITES, VAULT, audio

DOC = (Path(__file__).parents[3] / "docs" / "vault-format.md").read_text("utf-8")


@pytest.fixture(params=SUITES)
def vector(request: pytest.FixtureRequest) -> dict[str, str]:
    document: dict[str, str] = json.loads((DATA / f"{request.param}.json").read_text())
    return document


def body_of(vector: dict[str, str]) -> bytes:
    return (DATA / vector["body"]).read_bytes()


def test_the_second_reader_opens_the_vectors(vector: dict[str, str]) -> None:
    header = bytes.fromhex(vector["header"])
    seed = bytes.fromhex(vector["private_key"])
    data_key, particulars = second.read_envelope(bytes.fromhex(vector["envelope"]), seed, header)
    assert data_key.hex() == vector["data_key"]
    assert json.loads(particulars) == json.loads(vector["particulars"])
    opened = second.read_body(body_of(vector), data_key, header)
    assert hashlib.sha256(opened).hexdigest() == vector["audio_sha256"]
    assert opened == audio(len(opened))


def test_ours_opens_the_vectors_and_seals_the_same_bytes(vector: dict[str, str]) -> None:
    body, data_key = body_of(vector), bytes.fromhex(vector["data_key"])
    header = h.decode(bytes.fromhex(vector["header"]))
    reader = Reader(
        header.suite, data_key, header.encode(), lambda at, n: body[at : at + n], len(body), True
    )
    opened = reader.read(0, reader.plain_bytes)
    assert hashlib.sha256(opened).hexdigest() == vector["audio_sha256"]
    sealer = Sealer(header.suite, data_key, header.encode(), body[:24])
    again = sealer.prologue + sealer.seal(0, opened[:16384])
    again += sealer.seal(1, opened[16384:32768]) + sealer.seal(2, opened[32768:], last=True)
    assert again == body
    envelope = bytes.fromhex(vector["envelope"])
    found = h.open_envelope(bytes.fromhex(vector["private_key"]), header, envelope)
    assert found == (data_key, vector["particulars"].encode())


def test_the_second_reader_opens_what_is_sealed_now() -> None:
    for suite in SUITES:
        header = h.Header("t", "n", "9" * 32, 3, suite, 16000, 1)
        data_key, seed = bytes(range(32)), xwing.generate()
        public = xwing.public_key(seed)
        particulars = h.Particulars("c", "a", "b", "r", 1).encode()
        envelope = h.seal_envelope(public, xwing.key_id(public), header, data_key, particulars)
        opened = second.read_envelope(envelope, seed, header.encode())
        assert opened == (data_key, particulars)
        assert second.read_header(header.encode())[1:] == list(msgspec.structs.astuple(header))


def test_the_second_reader_opens_the_vault_of_the_vectors() -> None:
    """From the passphrase alone: key file, keyring, key slot, body."""
    document = json.loads((VAULT / "vault.json").read_text())
    kept = json.loads((VAULT / "key.json").read_text())
    master = second.master_key(
        document["passphrase"].encode(),
        kept["log_n"],
        base64.b64decode(kept["salt"]),
        base64.b64decode(kept["sealed"]),
    )
    recording = bytes.fromhex(document["recording"])
    payload = second.read_slots((VAULT / "slots").read_bytes())[recording]
    kek_id = payload[:16]
    record = msgspec.msgpack.decode(second.read_slots((VAULT / "keyring").read_bytes())[kek_id])
    assert record["type"] == "kek"
    purpose = b"\0".join(
        (b"pbxctl kek", kek_id, record["tenant"].encode(), record["period"].encode())
    )
    kek = second.unwrap_by_key_file(record["wrapped"], master, purpose)
    assert second.read_key_slot(payload, kek, recording).hex() == document["data_key"]


def test_ours_opens_the_vault_of_the_vectors() -> None:
    document = json.loads((VAULT / "vault.json").read_text())
    provider = FileProvider(VAULT / "key.json", document["passphrase"])
    keyring = Keyring(VAULT / "keyring", provider, writable=False)
    slots = KeySlots(VAULT / "slots", keyring)
    number = slots.find(document["recording"])
    assert number is not None
    key = slots.data_key(number, document["tenant"], document["recording"])
    assert key.hex() == document["data_key"]
    slots.close()
    keyring.close()


def test_the_second_reader_opens_slots_written_now(tmp_path: Path) -> None:
    key_file.create(tmp_path / "key", "correct horse battery", log_n=14)
    provider = FileProvider(tmp_path / "key", "correct horse battery")
    make(tmp_path / "keyring")
    key_slots.make(tmp_path / "slots")
    keyring = Keyring(tmp_path / "keyring", provider, writable=True)
    slots = WritableKeySlots(tmp_path / "slots", keyring)
    slots.put([Entry("acme", "2027-01", "5" * 32, bytes(range(32)))], 1)
    pair = keyring.new_pair(2)
    payload = second.read_slots((tmp_path / "slots").read_bytes())[bytes.fromhex("5" * 32)]
    [(kek_id, kek)] = keyring.keks().items()
    purpose = b"\0".join((b"pbxctl kek", kek_id, b"acme", b"2027-01"))
    opened = provider.unwrap(kek.wrapped, purpose)
    assert second.read_key_slot(payload, opened, bytes.fromhex("5" * 32)) == bytes(range(32))
    records = second.read_slots((tmp_path / "keyring").read_bytes())
    owner = next(o for o in records if o.hex().startswith(pair.id))
    record = msgspec.msgpack.decode(records[owner])
    seed = provider.unwrap(record["wrapped"], b"pbxctl x-wing\0" + owner)
    assert seed == keyring.private_key(pair.id)
    slots.close()
    keyring.close()


def test_the_page_tells_the_sizes_that_the_code_has() -> None:
    assert f"{h.ENVELOPE_BYTES} bytes, whatever is in them" in DOC
    assert f"Slots of {key_slots.SLOT_BYTES} bytes" in DOC
    assert f"at most {h.PARTICULARS_MAX_BYTES} bytes" in DOC


@pytest.mark.parametrize(
    "cipher",
    [
        OpensslSm4Gcm,
        pytest.param(
            GcryptSm4Gcm,
            marks=pytest.mark.skipif(gcrypt() is None, reason="libgcrypt is not installed"),
        ),
    ],
)
def test_sm4_gcm_is_that_of_rfc_8998(cipher: Callable[[bytes], Sm4Gcm]) -> None:
    """Appendix A.1."""
    aead = cipher(bytes.fromhex("0123456789ABCDEFFEDCBA9876543210"))
    nonce = bytes.fromhex("00001234567800000000ABCD")
    aad = bytes.fromhex("FEEDFACEDEADBEEFFEEDFACEDEADBEEFABADDAD2")
    plain = b"".join(bytes([b]) * 8 for b in bytes.fromhex("AABBCCDDEEFFEEAA"))
    sealed = bytes.fromhex(
        "17F399F08C67D5EE19D0DC9969C4BB7D5FD46FD3756489069157B282BB200735"
        "D82710CA5C22F0CCFA7CBF93D496AC15A56834CBCF98C397B4024A2691233B8D"
        "83DE3541E4C2B58177E065A9BF7B62EC"
    )
    assert aead.encrypt(nonce, plain, aad) == sealed
    out = bytearray(len(plain))
    assert aead.decrypt_into(nonce, sealed, aad, out) == len(plain)
    assert out == plain


@pytest.mark.skipif(gcrypt() is None, reason="libgcrypt is not installed")
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 16384])
def test_both_sm4_are_the_same_at_every_size(size: int) -> None:
    key, nonce, plain = bytes(range(16)), bytes(12), audio(size)
    sealed = OpensslSm4Gcm(key).encrypt(nonce, plain, None)
    assert GcryptSm4Gcm(key).encrypt(nonce, plain, None) == sealed
    writable = bytearray(plain)
    assert GcryptSm4Gcm(key).encrypt(nonce, writable, None) == sealed
    assert writable == plain
    out = bytearray(size)
    assert GcryptSm4Gcm(key).decrypt_into(nonce, sealed, None, out) == size
    assert out == plain
