"""Keys guarded by a key file: 32 random bytes, sealed by a passphrase with scrypt.

The file is JSON: {format, log_n, salt, sealed}, the last two in base64. The sealing key is
scrypt(passphrase, salt, n = 2^log_n, r = 8, p = 1), `sealed` is nonce (12) || AES-256-GCM with
the format's name as associated data. Whoever has file and passphrase has every key: this suits
one machine, or a passphrase that stands elsewhere than the file.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from controller.durable import replace
from controller.errors import LoginRefused, Tampered, UsageError, VaultError

_FORMAT = "pbxctl-key-file-1"
_NONCE_BYTES = 12
_SALT_BYTES = 32
#: 128 MiB and under a second; OWASP's least for scrypt
LOG_N = 17
#: a file that asks for more is hostile: 2^20 is 1 GiB
_LOG_N_RANGE = range(14, 21)
PASSPHRASE_MIN_CHARS = 12


class _KeyFile(msgspec.Struct, frozen=True):
    format: str
    log_n: int
    salt: bytes
    sealed: bytes


def create(path: Path, passphrase: str, *, log_n: int = LOG_N) -> None:
    """A key file with a new key. Raises UsageError when one stands there already."""
    if path.exists():
        raise UsageError(f"{path} exists: keys under it would be lost", hint="name another file")
    _write(path, secrets.token_bytes(32), passphrase, log_n)


def change_passphrase(path: Path, old: str, new: str, *, log_n: int = LOG_N) -> None:
    """The same key under another passphrase: what it wrapped stays as it is."""
    _write(path, _unlock(path, old), new, log_n)


class FileProvider:
    """Raises LoginRefused for a wrong passphrase, VaultError for a file that is no key file."""

    name = "file"

    def __init__(self, path: Path, passphrase: str) -> None:
        self._aead = AESGCM(_unlock(path, passphrase))

    def wrap(self, secret: bytes, purpose: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, secret, purpose)

    def unwrap(self, wrapped: bytes, purpose: bytes) -> bytes:
        try:
            return self._aead.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], purpose)
        except (InvalidTag, ValueError):
            raise Tampered(
                "a wrapped key was altered, or belongs to another key file",
                hint="is this the key file that the vault was made with?",
            ) from None

    def close(self) -> None:
        del self._aead


def _write(path: Path, key: bytes, passphrase: str, log_n: int) -> None:
    if len(passphrase) < PASSPHRASE_MIN_CHARS:
        raise UsageError(f"a passphrase has {PASSPHRASE_MIN_CHARS} characters at least")
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    sealed = AESGCM(_stretch(passphrase, salt, log_n)).encrypt(nonce, key, _FORMAT.encode())
    content = _KeyFile(_FORMAT, log_n, salt, nonce + sealed)
    try:
        replace(path, msgspec.json.encode(content) + b"\n")
    except OSError as error:
        raise VaultError(f"{path} cannot be written: {error.strerror}") from error


def _unlock(path: Path, passphrase: str) -> bytes:
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_KeyFile)
    except OSError as error:
        raise VaultError(
            f"key file {path} cannot be read: {error.strerror}",
            hint="a vault without its key file can open nothing: restore it from its backup",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise VaultError(f"{path} is no key file: {error}") from None
    if kept.format != _FORMAT or kept.log_n not in _LOG_N_RANGE or len(kept.salt) < 16:
        raise VaultError(f"{path} is no key file of ours")
    nonce, sealed = kept.sealed[:_NONCE_BYTES], kept.sealed[_NONCE_BYTES:]
    try:
        key = _stretch(passphrase, kept.salt, kept.log_n)
        return AESGCM(key).decrypt(nonce, sealed, _FORMAT.encode())
    except (InvalidTag, ValueError):
        raise LoginRefused(f"the passphrase does not open {path}") from None


def _stretch(passphrase: str, salt: bytes, log_n: int) -> bytes:
    return Scrypt(salt, 32, n=1 << log_n, r=8, p=1).derive(passphrase.encode())
