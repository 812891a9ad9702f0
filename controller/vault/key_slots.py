"""The key slot of each recording: its data key, wrapped by the KEK of its tenant and period.

payload = KEK id (16) || nonce (12) || AES-256-GCM(KEK, data key) (48), with the recording's
16 bytes behind "pbxctl key slot\\0" as associated data: a slot's content under another recording
does not open. Destroying the slot erases the recording wherever copies of its body are.

Invariant: choosing a KEK and writing the slot are one step under the lock, and a rotation takes
that lock for each batch. So once newer KEKs stand, no slot can come to name an older one, and
when a pass has ended without a failure nothing does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller.errors import Tampered, VaultError
from controller.vault.keys.keyring import Keyring
from controller.vault.slots import OWNER_BYTES, Slots
from controller.vault.slots_writing import Progress, WritableSlots, create

SLOT_BYTES = 128
_NONCE_AT = OWNER_BYTES
_KEY_AT = _NONCE_AT + 12
_PAYLOAD_BYTES = _KEY_AT + 48
_PURPOSE = b"pbxctl key slot\0"


@dataclass(frozen=True)
class Entry:
    """One data key to keep. recording: 32 hex digits. period: as the keyring's KEKs name it."""

    tenant: str
    period: str
    recording: str
    data_key: bytes


def make(path: Path) -> None:
    """An empty file of key slots. Raises VaultError when it exists."""
    create(path, SLOT_BYTES)


class KeySlots:
    """Reading: any number of processes. For any thread."""

    def __init__(self, path: Path, keyring: Keyring) -> None:
        self._slots = self._open(path)
        self._keyring = keyring

    def _open(self, path: Path) -> Slots:
        return Slots(path)

    def close(self) -> None:
        self._slots.close()

    def data_key(self, number: int, tenant: str, recording: str) -> bytes:
        """Raises KeyDestroyed when slot or KEK are gone, Tampered when they do not fit."""
        owner = bytes.fromhex(recording)
        payload = self._slots.read(number, owner)
        return _unwrap(self._keyring.cipher(_kek(payload), tenant), owner, payload)

    def find(self, recording: str) -> int | None:
        """A search of the whole file."""
        return self._slots.find(bytes.fromhex(recording))

    def recordings(self) -> Iterator[tuple[int, str]]:
        """(slot, recording) of every slot in use."""
        for number, owner, _ in self._slots.items():
            yield number, owner.hex()


class WritableKeySlots(KeySlots):
    """The one writer. For any thread."""

    _slots: WritableSlots

    def __init__(self, path: Path, keyring: Keyring) -> None:
        super().__init__(path, keyring)
        self._lock = threading.Lock()
        self._gate = threading.Lock()

    def _open(self, path: Path) -> WritableSlots:
        return WritableSlots(path)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The lock. Who waits for it holds the gate, so a rotation's next batch comes after."""
        with self._gate:
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    @property
    def used(self) -> int:
        return self._slots.used

    def put(self, entries: Sequence[Entry], now_us: int) -> list[int]:
        """The slot of each, all on disk by one sync."""
        with self._turn():
            packed = []
            for entry in entries:
                owner = bytes.fromhex(entry.recording)
                kek = self._keyring.kek(entry.tenant, entry.period, now_us)
                cipher = self._keyring.cipher(kek, entry.tenant)
                packed.append((owner, _wrap(cipher, kek, owner, entry.data_key, os.urandom(12))))
            return self._slots.write_many(packed)

    def destroy(self, number: int, recording: str) -> bool:
        """The recording is unreadable when this returns; False when it was so before."""
        with self._turn():
            return self._slots.destroy(number, bytes.fromhex(recording))

    def rotate(self, now_us: int, *, batch: int = 4096) -> Iterator[Progress]:
        """Every slot under a new KEK, then the old KEKs destroyed; bodies are not touched.

        Goes on where an earlier one ended. Other calls may come between two steps. Raises
        VaultError at the end when slots failed: the old KEKs then stay, and the next call tries
        those slots again.
        """
        with self._turn():
            self._keyring.begin_rotation(now_us)
        steps = self._slots.rewrap(_Rewrap(self._keyring), batch)
        progress = None
        while True:
            with self._turn():
                progress, last = next(steps, None), progress
            if progress is None:
                break
            yield progress
        if last is not None and last.failed:
            some = ", ".join(map(str, last.failed[:5]))
            raise VaultError(
                f"{len(last.failed)} key slots could not be rotated: {some}",
                hint="restore the file from its backup or destroy these; old keys are kept",
            )
        with self._turn():
            self._keyring.end_rotation()


class _Rewrap:
    """slots.Change: the same data key under the newest KEK of its period."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._steps: dict[bytes, tuple[AESGCM, bytes, AESGCM] | None] = {}

    def __call__(self, owner: bytes, payload: bytes) -> bytes | None:
        kek = payload[:_NONCE_AT]
        try:
            step = self._steps[kek]
        except KeyError:
            step = self._steps[kek] = self._step(kek)
        if step is None:
            return None
        old, newest, new = step
        return _wrap(new, newest, owner, _unwrap(old, owner, payload), os.urandom(12))

    def _step(self, kek: bytes) -> tuple[AESGCM, bytes, AESGCM] | None:
        newest = self._keyring.successor(kek)
        if newest == kek:
            return None
        tenant = self._keyring.tenant(kek)
        return self._keyring.cipher(kek, tenant), newest, self._keyring.cipher(newest, tenant)


def _kek(payload: bytes) -> bytes:
    if len(payload) != _PAYLOAD_BYTES:
        raise VaultError("a key slot of another shape")
    return payload[:_NONCE_AT]


def _wrap(cipher: AESGCM, kek: bytes, owner: bytes, data_key: bytes, nonce: bytes) -> bytes:
    return kek + nonce + cipher.encrypt(nonce, data_key, _PURPOSE + owner)


def _unwrap(cipher: AESGCM, owner: bytes, payload: bytes) -> bytes:
    try:
        return cipher.decrypt(payload[_NONCE_AT:_KEY_AT], payload[_KEY_AT:], _PURPOSE + owner)
    except InvalidTag:
        raise Tampered("a key slot was altered, or is another recording's") from None
