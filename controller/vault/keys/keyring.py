"""The vault's long-lived keys, each wrapped by the provider, in a file of slots (slots.py).

- X-Wing pairs: recordings are sealed to the newest; older ones stay while an envelope names them.
- KEKs (key-encrypting keys), one for each tenant and retention period: the newest of a period
  wraps, older ones open what a rotation has not reached yet.
- Secrets by name, made when first asked for: for what the vault signs, or looks up by keyed hash.

The provider binds each to what it is for, so that records cannot be exchanged. Destroying a key
overwrites its slot.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller.errors import KeyDestroyed, Tampered, VaultError
from controller.vault import xwing
from controller.vault.keys.provider import Provider
from controller.vault.keys.published import PublicKey
from controller.vault.slots import OWNER_BYTES, Slots
from controller.vault.slots_writing import WritableSlots, create

SLOT_BYTES = 2048
_KEY_BYTES = 32


class Pair(msgspec.Struct, frozen=True, tag="pair"):
    public: bytes
    created_us: int
    wrapped: bytes


class Kek(msgspec.Struct, frozen=True, tag="kek"):
    """period: as the caller names it, for example the month in which retention ends."""

    tenant: str
    period: str
    created_us: int
    wrapped: bytes


class Secret(msgspec.Struct, frozen=True, tag="secret"):
    name: str
    created_us: int
    wrapped: bytes


class Rotation(msgspec.Struct, frozen=True, tag="rotation"):
    """Under way: every KEK older than this is to be replaced."""

    started_us: int


Record = Pair | Kek | Secret | Rotation
_RECORD = msgspec.msgpack.Decoder(Record)


def make(path: Path) -> None:
    """An empty keyring. Raises VaultError when the file exists."""
    create(path, SLOT_BYTES)


class Keyring:
    """For any thread. With writable=False nothing is made; keys made elsewhere are found."""

    def __init__(self, path: Path, provider: Provider, *, writable: bool) -> None:
        self._lock = threading.RLock()
        self._provider = provider
        self._slots = WritableSlots(path) if writable else Slots(path)
        self._records: dict[bytes, tuple[int, Record]] = {}
        self._opened: dict[bytes, bytes] = {}
        self._ciphers: dict[bytes, AESGCM] = {}
        self._load()

    def close(self) -> None:
        self._slots.close()
        self._opened.clear()
        self._ciphers.clear()

    def refresh(self) -> None:
        """What another process made is found, what it destroyed is forgotten."""
        with self._lock:
            self._load()
            for cache in (self._opened, self._ciphers):
                for owner in cache.keys() - self._records.keys():
                    del cache[owner]

    def damaged(self) -> list[int]:
        """Records that cannot be read any more: restore the keyring from its backup."""
        return self._slots.damaged()

    def change_provider(self, provider: Provider) -> None:
        """Every key is wrapped by the new provider instead, all of them or, in a crash, none.

        Bodies, envelopes and key slots stay as they are. Raises, with nothing changed, when one
        key does not open or the new provider fails.
        """
        with self._lock:
            slots = self._writable()
            if slots.damaged():
                raise VaultError("the keyring is damaged", hint="restore it from its backup")
            fresh = {}
            for owner, (_, record) in self._records.items():
                if not isinstance(record, Rotation):
                    wrapped = provider.wrap(self._open(owner), _purpose(owner, record))
                    changed = msgspec.structs.replace(record, wrapped=wrapped)
                    fresh[owner] = msgspec.msgpack.encode(changed)
            # One batch has one journal: it is finished whole or not begun.
            for _ in slots.rewrap(lambda owner, _: fresh.get(owner), batch=slots.slots):
                pass
            self._provider = provider
            self._load()

    # A pair's owner is the hash of its public key, a KEK's is its id.

    def pairs(self) -> tuple[PublicKey, ...]:
        """Public keys, newest first."""
        with self._lock:
            found = [r for _, r in self._records.values() if isinstance(r, Pair)]
        found.sort(key=lambda pair: pair.created_us, reverse=True)
        return tuple(PublicKey(xwing.key_id(p.public), p.public, p.created_us) for p in found)

    def new_pair(self, now_us: int) -> PublicKey:
        private = xwing.generate()
        public = xwing.public_key(private)
        owner = hashlib.sha256(public).digest()[:OWNER_BYTES]
        with self._lock:
            newest = max((key.created_us for key in self.pairs()), default=0)
            created_us = max(now_us, newest + 1)  # a clock set back must not hide the new pair
            self._add_wrapped(owner, Pair(public, created_us, b""), private)
        return PublicKey(xwing.key_id(public), public, created_us)

    def private_key(self, key_id: str) -> bytes:
        """Raises KeyDestroyed when there is no such pair (any more)."""
        with self._lock:
            owner = self._pair_owner(key_id)
            if owner is None:
                self._load()
                owner = self._pair_owner(key_id)
            if owner is None:
                raise KeyDestroyed(f"no key pair {key_id} is in the keyring")
            return self._open(owner)

    def destroy_pair(self, key_id: str) -> bool:
        """False when it was gone already. The newest cannot go: recordings are sealed to it."""
        with self._lock:
            owner = self._pair_owner(key_id)
            if owner is None:
                return False
            if self.pairs()[0].id == key_id:
                raise VaultError(
                    f"{key_id} is the current key pair", hint="make a new one, then destroy this"
                )
            return self._remove(owner)

    def kek(self, tenant: str, period: str, now_us: int) -> bytes:
        """The id of the newest KEK of a period, made when there is none."""
        with self._lock:
            newest = self._newest(tenant, period)
            return newest if newest is not None else self._new_kek(tenant, period, now_us)

    def cipher(self, kek: bytes, tenant: str) -> AESGCM:
        """AES-256-GCM under that KEK. Raises KeyDestroyed, or Tampered for another's KEK."""
        with self._lock:
            record = self._kek(kek)
            if record.tenant != tenant:
                raise Tampered(f"the key slot names a KEK that is not one of tenant {tenant}")
            if kek not in self._ciphers:
                self._ciphers[kek] = AESGCM(self._open(kek))
            return self._ciphers[kek]

    def tenant(self, kek: bytes) -> str:
        """Raises KeyDestroyed."""
        with self._lock:
            return self._kek(kek).tenant

    def keks(self) -> dict[bytes, Kek]:
        with self._lock:
            return {o: r for o, (_, r) in self._records.items() if isinstance(r, Kek)}

    def successor(self, kek: bytes) -> bytes:
        """The newest KEK of the same tenant and period; itself when there is no newer."""
        with self._lock:
            record = self._kek(kek)
            return self._newest(record.tenant, record.period) or kek

    def destroy_keks(self, tenant: str, period: str) -> int:
        """Everything of that tenant and period is unreadable from here on; returns how many."""
        with self._lock:
            doomed = [o for o, r in self.keks().items() if (r.tenant, r.period) == (tenant, period)]
            return sum(self._remove(kek) for kek in doomed)

    def secret(self, name: str, now_us: int) -> bytes:
        """32 random bytes that belong to this name for good."""
        owner = hashlib.sha256(b"secret\0" + name.encode()).digest()[:OWNER_BYTES]
        with self._lock:
            if owner not in self._records:
                record = Secret(name, now_us, b"")
                self._add_wrapped(owner, record, secrets.token_bytes(_KEY_BYTES))
            return self._open(owner)

    def begin_rotation(self, now_us: int) -> None:
        """A newer KEK for each period; goes on where one was begun and not ended."""
        with self._lock:
            rotation = self._rotation()
            if rotation is None:
                newest = max((r.created_us for r in self.keks().values()), default=0)
                record = Rotation(max(now_us, newest + 1))
                self._add(secrets.token_bytes(OWNER_BYTES), record)
            else:
                record = rotation[1]
            for tenant, period in {(r.tenant, r.period) for r in self.keks().values()}:
                newest_id = self._newest(tenant, period)
                if newest_id is not None and self._kek(newest_id).created_us < record.started_us:
                    self._new_kek(tenant, period, record.started_us)

    def end_rotation(self) -> int:
        """Destroys the KEKs that have a successor; returns how many. Nothing may name them now."""
        with self._lock:
            old = [kek for kek in self.keks() if self.successor(kek) != kek]
            for kek in old:
                self._remove(kek)
            if (rotation := self._rotation()) is not None:
                self._remove(rotation[0])
            return len(old)

    @property
    def wrapped(self) -> int:
        """How many keys the provider guards."""
        with self._lock:
            return sum(not isinstance(record, Rotation) for _, record in self._records.values())

    @property
    def rotating(self) -> bool:
        with self._lock:
            return self._rotation() is not None

    def _load(self) -> None:
        try:
            self._records = {
                owner: (number, _RECORD.decode(payload))
                for number, owner, payload in self._slots.items()
            }
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise VaultError(f"the keyring has a record that is not ours: {error}") from None

    def _rotation(self) -> tuple[bytes, Rotation] | None:
        for owner, (_, record) in self._records.items():
            if isinstance(record, Rotation):
                return owner, record
        return None

    def _pair_owner(self, key_id: str) -> bytes | None:
        for owner, (_, record) in self._records.items():
            if isinstance(record, Pair) and owner.hex().startswith(key_id):
                return owner
        return None

    def _kek(self, kek: bytes) -> Kek:
        if kek not in self._records:
            self._load()  # another process may have made it
        _, record = self._records.get(kek, (0, None))
        if not isinstance(record, Kek):
            raise KeyDestroyed(f"KEK {kek.hex()} is not in the keyring: destroyed")
        return record

    def _newest(self, tenant: str, period: str) -> bytes | None:
        same = {o: r for o, r in self.keks().items() if (r.tenant, r.period) == (tenant, period)}
        return max(same, key=lambda owner: same[owner].created_us, default=None)

    def _new_kek(self, tenant: str, period: str, created_us: int) -> bytes:
        kek = secrets.token_bytes(OWNER_BYTES)
        record = Kek(tenant, period, created_us, b"")
        self._add_wrapped(kek, record, secrets.token_bytes(_KEY_BYTES))
        return kek

    def _open(self, owner: bytes) -> bytes:
        if owner not in self._opened:
            _, record = self._records[owner]
            if isinstance(record, Rotation):
                raise VaultError("a rotation's record holds no key")
            self._opened[owner] = self._provider.unwrap(record.wrapped, _purpose(owner, record))
        return self._opened[owner]

    def _writable(self) -> WritableSlots:
        if not isinstance(self._slots, WritableSlots):
            raise VaultError("the keyring is open for reading only")
        return self._slots

    def _add(self, owner: bytes, record: Record) -> None:
        number = self._writable().write(owner, msgspec.msgpack.encode(record))
        self._records[owner] = (number, record)

    def _add_wrapped(self, owner: bytes, record: Pair | Kek | Secret, key: bytes) -> None:
        wrapped = self._provider.wrap(key, _purpose(owner, record))
        self._add(owner, msgspec.structs.replace(record, wrapped=wrapped))

    def _remove(self, owner: bytes) -> bool:
        number, _ = self._records[owner]
        done = self._writable().destroy(number, owner)
        self._records.pop(owner, None)
        self._opened.pop(owner, None)
        self._ciphers.pop(owner, None)
        return done


def _purpose(owner: bytes, record: Pair | Kek | Secret) -> bytes:
    match record:
        case Pair():
            return b"pbxctl x-wing\0" + owner
        case Kek(tenant, period):
            return b"\0".join((b"pbxctl kek", owner, tenant.encode(), period.encode()))
        case Secret(name):
            return b"pbxctl secret\0" + name.encode()
