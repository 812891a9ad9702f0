"""The keyring: pairs, KEKs, secrets; and key slots under them, rotated and destroyed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from controller.errors import KeyDestroyed, KeysUnreachable, Tampered, VaultError
from controller.vault import key_slots, xwing
from controller.vault.key_slots import Entry, KeySlots, WritableKeySlots
from controller.vault.keys import file as key_file
from controller.vault.keys import keyring as k
from controller.vault.keys.file import FileProvider
from controller.vault.keys.published import publish, published
from controller.vault.slots_writing import WritableSlots

PASSPHRASE = "correct horse battery"
R1, R2 = "1" * 32, "2" * 32


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> FileProvider:
    path = tmp_path_factory.mktemp("key") / "key"
    key_file.create(path, PASSPHRASE, log_n=14)
    return FileProvider(path, PASSPHRASE)


@pytest.fixture
def keyring(tmp_path: Path, provider: FileProvider) -> Iterator[k.Keyring]:
    k.make(tmp_path / "keyring")
    keyring = k.Keyring(tmp_path / "keyring", provider, writable=True)
    yield keyring
    keyring.close()


@pytest.fixture
def slots(tmp_path: Path, keyring: k.Keyring) -> Iterator[WritableKeySlots]:
    key_slots.make(tmp_path / "slots")
    slots = WritableKeySlots(tmp_path / "slots", keyring)
    yield slots
    slots.close()


def test_the_newest_pair_is_first_and_old_ones_open_until_destroyed(keyring: k.Keyring) -> None:
    first = keyring.new_pair(1000)
    second = keyring.new_pair(5)  # the clock was set back
    assert [key.id for key in keyring.pairs()] == [second.id, first.id]
    sealed = xwing.seal(first.key, b"info", b"secret")
    assert xwing.open_sealed(keyring.private_key(first.id), b"info", sealed) == b"secret"
    with pytest.raises(VaultError, match="current"):
        keyring.destroy_pair(second.id)
    assert keyring.destroy_pair(first.id)
    assert not keyring.destroy_pair(first.id)
    with pytest.raises(KeyDestroyed):
        keyring.private_key(first.id)


def test_all_comes_back_and_no_key_stands_in_the_file(
    tmp_path: Path, keyring: k.Keyring, provider: FileProvider
) -> None:
    pair = keyring.new_pair(1)
    private = keyring.private_key(pair.id)
    kek = keyring.kek("acme", "2027-01", 2)
    secret = keyring.secret("index acme", 3)
    assert keyring.secret("index acme", 4) == secret != keyring.secret("index other", 4)
    other = k.Keyring(tmp_path / "keyring", provider, writable=False)
    assert other.private_key(pair.id) == private
    assert other.kek("acme", "2027-01", 9) == kek
    assert other.secret("index acme", 9) == secret
    content = (tmp_path / "keyring").read_bytes()
    assert private not in content
    assert secret not in content
    with pytest.raises(VaultError, match="reading only"):
        other.kek("acme", "2028-01", 9)
    late = keyring.new_pair(7)
    assert other.private_key(late.id) == keyring.private_key(late.id)
    other.close()


def test_a_keyring_of_another_key_file_does_not_open(tmp_path: Path, keyring: k.Keyring) -> None:
    pair = keyring.new_pair(1)
    key_file.create(tmp_path / "other", PASSPHRASE, log_n=14)
    other = k.Keyring(
        tmp_path / "keyring", FileProvider(tmp_path / "other", PASSPHRASE), writable=False
    )
    with pytest.raises(Tampered):
        other.private_key(pair.id)
    other.close()


def test_records_cannot_be_exchanged(
    tmp_path: Path, keyring: k.Keyring, provider: FileProvider
) -> None:
    """One tenant's wrapped KEK under the other's name, as who can write the file might do."""
    mine, theirs = keyring.kek("acme", "p", 1), keyring.kek("other", "p", 1)
    theirs_wrapped = keyring.keks()[theirs].wrapped
    keyring.close()
    slots = WritableSlots(tmp_path / "keyring")

    def exchange(owner: bytes, payload: bytes) -> bytes | None:
        if owner != mine:
            return None
        record = msgspec.msgpack.decode(payload, type=k.Kek)
        return msgspec.msgpack.encode(msgspec.structs.replace(record, wrapped=theirs_wrapped))

    list(slots.rewrap(exchange))
    slots.close()
    forged = k.Keyring(tmp_path / "keyring", provider, writable=False)
    with pytest.raises(Tampered):
        forged.cipher(mine, "acme")
    forged.close()


def test_another_provider_takes_over_with_every_key(
    tmp_path: Path, keyring: k.Keyring, slots: WritableKeySlots, provider: FileProvider
) -> None:
    pair, secret = keyring.new_pair(1), keyring.secret("index", 1)
    private = keyring.private_key(pair.id)
    [one] = slots.put([Entry("acme", "p", R1, bytes(32))], 1)
    before = (tmp_path / "slots").read_bytes()
    key_file.create(tmp_path / "other", PASSPHRASE, log_n=14)
    other = FileProvider(tmp_path / "other", PASSPHRASE)
    keyring.change_provider(other)
    fresh = keyring.kek("acme", "q", 2)
    read = k.Keyring(tmp_path / "keyring", other, writable=False)
    assert read.private_key(pair.id) == private
    assert read.secret("index", 9) == secret
    assert KeySlots(tmp_path / "slots", read).data_key(one, "acme", R1) == bytes(32)
    read.cipher(fresh, "acme")
    read.close()
    assert (tmp_path / "slots").read_bytes() == before
    stale = k.Keyring(tmp_path / "keyring", provider, writable=False)
    with pytest.raises(Tampered):
        stale.private_key(pair.id)
    stale.close()


def test_a_provider_that_fails_midway_changes_nothing(
    tmp_path: Path, keyring: k.Keyring, provider: FileProvider
) -> None:
    pair = keyring.new_pair(1)
    keyring.kek("acme", "p", 1)
    before = (tmp_path / "keyring").read_bytes()

    class Failing:
        name = "failing"
        calls = 0

        def wrap(self, secret: bytes, purpose: bytes) -> bytes:
            self.calls += 1
            if self.calls == 2:
                raise KeysUnreachable("gone")
            return provider.wrap(secret, purpose)

        def unwrap(self, wrapped: bytes, purpose: bytes) -> bytes:
            return provider.unwrap(wrapped, purpose)

        def close(self) -> None: ...

    with pytest.raises(KeysUnreachable):
        keyring.change_provider(Failing())
    assert (tmp_path / "keyring").read_bytes() == before
    assert len(keyring.private_key(pair.id)) == 32


def test_a_reader_forgets_what_was_destroyed(
    tmp_path: Path, keyring: k.Keyring, provider: FileProvider
) -> None:
    kek = keyring.kek("acme", "p", 1)
    reader = k.Keyring(tmp_path / "keyring", provider, writable=False)
    reader.cipher(kek, "acme")
    keyring.destroy_keks("acme", "p")
    reader.refresh()
    with pytest.raises(KeyDestroyed):
        reader.cipher(kek, "acme")
    reader.close()


def test_a_damaged_record_is_told_and_no_provider_is_changed(
    tmp_path: Path, keyring: k.Keyring, provider: FileProvider
) -> None:
    keyring.new_pair(1)
    assert keyring.damaged() == []
    with (tmp_path / "keyring").open("r+b") as file:
        file.seek(4096 + 100)
        file.write(b"XX")
    assert keyring.damaged() == [0]
    with pytest.raises(VaultError, match="damaged"):
        keyring.change_provider(provider)


def test_public_keys_are_published_and_checked(tmp_path: Path, keyring: k.Keyring) -> None:
    path = tmp_path / "vault-keys.json"
    keyring.new_pair(1)
    current = keyring.new_pair(2)
    publish(path, keyring.pairs())
    read = published(path)
    assert read.key() == current
    assert read.keys == keyring.pairs()
    assert path.stat().st_mode & 0o777 == 0o644
    text = path.read_text()
    for altered in (
        "{",
        text.replace(current.id, "0" * 16, 1),
        text.replace('"key":"', '"key":"AA'),
    ):
        path.write_text(altered)
        with pytest.raises(VaultError):
            published(path)
    path.unlink()
    with pytest.raises(VaultError, match="cannot be read"):
        published(path)


def test_a_data_key_opens_for_its_tenant_and_recording_alone(
    tmp_path: Path, keyring: k.Keyring, slots: WritableKeySlots
) -> None:
    key = secrets.token_bytes(32)
    one, two = slots.put([Entry("acme", "p", R1, key), Entry("acme", "p", R2, bytes(32))], 1)
    assert slots.data_key(one, "acme", R1) == key
    reader = KeySlots(tmp_path / "slots", keyring)
    assert reader.data_key(two, "acme", R2) == bytes(32)
    assert (reader.find(R2), reader.find("3" * 32)) == (two, None)
    assert list(reader.recordings()) == [(one, R1), (two, R2)]
    reader.close()
    with pytest.raises(Tampered, match="tenant other"):
        slots.data_key(one, "other", R1)
    with pytest.raises(KeyDestroyed):
        slots.data_key(one, "acme", R2)
    with pytest.raises(KeyDestroyed):
        slots.data_key(99, "acme", R1)
    assert key not in (tmp_path / "slots").read_bytes()


def test_a_slot_moved_to_another_recording_is_refused(
    tmp_path: Path, keyring: k.Keyring, slots: WritableKeySlots
) -> None:
    [one] = slots.put([Entry("acme", "p", R1, bytes(32))], 1)
    slots.close()
    raw = WritableSlots(tmp_path / "slots")
    moved = raw.write(bytes.fromhex(R2), raw.read(one, bytes.fromhex(R1)))
    raw.close()
    again = WritableKeySlots(tmp_path / "slots", keyring)
    with pytest.raises(Tampered, match="another recording"):
        again.data_key(moved, "acme", R2)
    again.close()


def test_erasing_and_the_end_of_a_period(slots: WritableKeySlots, keyring: k.Keyring) -> None:
    one, two = slots.put([Entry("acme", "p", R1, bytes(32)), Entry("acme", "q", R2, bytes(32))], 1)
    assert slots.destroy(one, R1)
    assert not slots.destroy(one, R1)
    with pytest.raises(KeyDestroyed):
        slots.data_key(one, "acme", R1)
    assert keyring.destroy_keks("acme", "q") == 1
    with pytest.raises(KeyDestroyed):
        slots.data_key(two, "acme", R2)


def test_rotation_changes_every_slot_and_destroys_the_old_keks(
    tmp_path: Path, keyring: k.Keyring, slots: WritableKeySlots
) -> None:
    entries = [
        Entry(f"t{i % 3}", f"p{i % 2}", secrets.token_hex(16), secrets.token_bytes(32))
        for i in range(300)
    ]
    numbers = slots.put(entries, 1)
    old = set(keyring.keks())
    before = {owner: payload for _, owner, payload in slots._slots.items()}
    steps = slots.rotate(2, batch=2048)
    next(steps)
    assert keyring.rotating
    late = Entry("t0", "p0", "f" * 32, bytes(32))
    [late_at] = slots.put([late], 3)
    assert slots.destroy(numbers[7], entries[7].recording)
    for _ in steps:
        pass
    assert not keyring.rotating
    assert len(keyring.keks()) == len(old) == 6
    assert not old & set(keyring.keks())
    for number, entry in [*zip(numbers, entries, strict=True), (late_at, late)]:
        if entry is not entries[7]:
            assert slots.data_key(number, entry.tenant, entry.recording) == entry.data_key
    for _, owner, payload in slots._slots.items():
        assert payload[:16] not in old
        assert before.get(owner) != payload


def test_a_damaged_slot_keeps_the_old_keks(
    tmp_path: Path, keyring: k.Keyring, slots: WritableKeySlots
) -> None:
    one, two = slots.put([Entry("a", "p", R1, bytes(32)), Entry("a", "p", R2, b"2" * 32)], 1)
    old = set(keyring.keks())
    with (tmp_path / "slots").open("r+b") as file:
        file.seek(4096 + one * 128 + 60)
        file.write(b"XX")
    with pytest.raises(VaultError, match="1 key slots could not be rotated: 0"):
        list(slots.rotate(2))
    assert old < set(keyring.keks())
    assert slots.data_key(two, "a", R2) == b"2" * 32
    assert slots.destroy(one, R1)
    list(slots.rotate(3))
    assert not old & set(keyring.keks())
    assert len(keyring.keks()) == 1
    assert slots.data_key(two, "a", R2) == b"2" * 32


def test_old_copies_of_slots_are_worthless_after_a_rotation(
    tmp_path: Path, keyring: k.Keyring, slots: WritableKeySlots
) -> None:
    [one] = slots.put([Entry("a", "p", R1, bytes(32))], 1)
    (tmp_path / "stolen").write_bytes((tmp_path / "slots").read_bytes())
    list(slots.rotate(2))
    stolen = KeySlots(tmp_path / "stolen", keyring)
    with pytest.raises(KeyDestroyed):
        stolen.data_key(one, "a", R1)
    stolen.close()
    assert slots.data_key(one, "a", R1) == bytes(32)
