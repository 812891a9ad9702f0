"""Slots: written, read, destroyed, rewrapped; torn writes mended, damage told."""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controller.errors import KeyDestroyed, VaultError
from controller.vault.slots import Slots
from controller.vault.slots_writing import WritableSlots, create

A, B = b"a" * 16, b"b" * 16
SECRET = b"the wrapped key of somebody"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create(tmp_path / "keys", 128)
    return tmp_path / "keys"


@pytest.fixture
def slots(path: Path) -> Iterator[WritableSlots]:
    slots = WritableSlots(path)
    yield slots
    slots.close()


def test_what_is_written_is_read_also_by_others(path: Path, slots: WritableSlots) -> None:
    numbers = slots.write_many([(A, b"one"), (B, b"two")])
    other = Slots(path)
    assert [other.read(n, o) for n, o in zip(numbers, (A, B), strict=True)] == [b"one", b"two"]
    assert list(other.items()) == [(numbers[0], A, b"one"), (numbers[1], B, b"two")]
    assert other.find(B) == numbers[1]
    assert other.find(b"c" * 16) is None
    other.close()


def test_nothing_of_a_destroyed_slot_is_left_in_the_folder(
    path: Path, slots: WritableSlots
) -> None:
    number = slots.write(A, SECRET)
    for _ in slots.rewrap(lambda owner, payload: payload + b"!"):
        pass
    assert slots.destroy(number, A)
    for file in path.parent.iterdir():
        assert SECRET not in file.read_bytes(), file
        assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyDestroyed):
        slots.read(number, A)
    assert not slots.destroy(number, A)
    assert slots.write(B, b"next") == number
    with pytest.raises(KeyDestroyed):
        slots.read(number, A)
    assert not slots.destroy(number, A)
    assert slots.read(number, B) == b"next"


def test_there_is_one_writer(path: Path, slots: WritableSlots) -> None:
    with pytest.raises(VaultError, match="another process"):
        WritableSlots(path)


@pytest.mark.parametrize("at", [1, 2, 4, 9, 30])
def test_a_damaged_slot_is_told_and_can_be_destroyed(
    path: Path, slots: WritableSlots, at: int
) -> None:
    number = slots.write(A, SECRET)
    with path.open("r+b") as file:
        file.seek(4096 + number * 128 + at)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))
    with pytest.raises(VaultError, match="damaged"):
        slots.read(number, A)
    assert slots.damaged() == [number]
    assert list(slots.rewrap(lambda *_: b"x"))[-1].failed == (number,)
    assert slots.destroy(number, A)
    assert SECRET not in path.read_bytes()


def test_a_batch_that_was_torn_by_a_power_cut_is_finished(path: Path, tmp_path: Path) -> None:
    """The journal is synced, then the slots are half written: what a crash may leave."""
    slots = WritableSlots(path)
    numbers = slots.write_many([(bytes([i]) * 16, b"old") for i in range(64)])
    before = path.read_bytes()
    [_] = slots.rewrap(lambda owner, payload: b"new", batch=8192)
    after = path.read_bytes()
    slots.close()
    raw = after[4096:]
    head = struct.pack(">8sQII", b"journal1", 4096, len(raw), zlib.crc32(raw))
    torn = bytearray(before)
    torn[4096 + 512 : 4096 + 1100] = after[4096 + 512 : 4096 + 1100]
    torn[4096 + 1000 : 4096 + 1010] = bytes(10)
    for journal, expected in ((head + raw, b"new"), ((head + raw)[:-1], b"old"), (b"", b"old")):
        path.write_bytes(bytes(torn) if expected == b"new" else before)
        path.with_name("keys.journal").write_bytes(journal)
        mended = WritableSlots(path)
        assert {mended.read(n, bytes([n]) * 16) for n in numbers} == {expected}
        mended.close()
        assert not path.with_name("keys.journal").read_bytes().strip(b"\0")


def test_after_a_failed_sync_nothing_is_written(
    slots: WritableSlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(handle: int) -> None:
        raise OSError(5, "Input/output error")

    slots.write(A, b"one")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(VaultError, match="Input/output error"):
            slots.write(B, b"two")
    with pytest.raises(VaultError, match="failed to sync"):
        slots.write(B, b"two")
    with pytest.raises(VaultError, match="failed to sync"):
        slots.destroy(0, A)
    assert slots.read(0, A) == b"one"


def test_a_full_disk_costs_nothing_that_is_there(
    slots: WritableSlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, at: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(VaultError, match="No space") as refused:
            slots.write(A, b"one")
        assert refused.value.hint == "free some space"
    assert slots.read(slots.write(A, b"one"), A) == b"one"


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"pbxctl-slots-1"])
def test_another_file_is_no_file_of_slots(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(VaultError, match="no file of key slots"):
        Slots(tmp_path / "f")
    with pytest.raises(VaultError):
        Slots(tmp_path / "absent")
    with pytest.raises(VaultError):
        create(tmp_path / "f", 128)
    with pytest.raises(VaultError, match="page"):
        create(tmp_path / "g", 100)


def test_payloads_have_bounds(slots: WritableSlots) -> None:
    for payload in (b"", bytes(slots.payload_max_bytes + 1)):
        with pytest.raises(VaultError, match="fit"):
            slots.write(A, payload)
    full = secrets.token_bytes(slots.payload_max_bytes)
    assert slots.read(slots.write(A, full), A) == full


class Model(RuleBasedStateMachine):
    """Against a dict, with the file closed and opened at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(os.environ.get("TMPDIR", "/tmp")) / f"slots-{secrets.token_hex(8)}"
        create(self.path, 64)
        self.slots = WritableSlots(self.path)
        self.kept: dict[int, tuple[bytes, bytes]] = {}

    @rule(payloads=st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    def write(self, payloads: list[bytes]) -> None:
        entries = [(secrets.token_bytes(16), payload) for payload in payloads]
        numbers = self.slots.write_many(entries)
        assert not set(numbers) & set(self.kept)
        self.kept.update(zip(numbers, entries, strict=True))

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def destroy(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.kept)))
        owner, _ = self.kept.pop(number)
        assert self.slots.destroy(number, owner)

    @rule(salt=st.integers(0, 255))
    def rewrap(self, salt: int) -> None:
        def change(owner: bytes, payload: bytes) -> bytes | None:
            return bytes([b ^ salt for b in payload]) if owner[0] & 1 else None

        for progress in self.slots.rewrap(change, batch=3000):
            assert not progress.failed
        for number, (owner, payload) in self.kept.items():
            self.kept[number] = (owner, change(owner, payload) or payload)

    @rule()
    def reopen(self) -> None:
        self.slots.close()
        self.slots = WritableSlots(self.path)

    @invariant()
    def same(self) -> None:
        assert self.slots.used == len(self.kept)
        assert {n: (o, p) for n, o, p in self.slots.items()} == self.kept

    def teardown(self) -> None:
        self.slots.close()
        self.path.unlink()
        self.path.with_name(self.path.name + ".journal").unlink()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
