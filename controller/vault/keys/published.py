"""The file of the vault's public keys: written by the keeper, read by whoever seals."""

from __future__ import annotations

from pathlib import Path

import msgspec

from controller.durable import replace
from controller.errors import VaultError
from controller.vault import xwing


class PublicKey(msgspec.Struct, frozen=True):
    """id: the start of the key's SHA-256, in hex. key: X-Wing's 1216 bytes, base64 in the file."""

    id: str
    key: bytes
    created_us: int


class Published(msgspec.Struct, frozen=True):
    """current: the key to seal to. keys: all that still open something, newest first."""

    current: str
    keys: tuple[PublicKey, ...]

    def key(self) -> PublicKey:
        return next(key for key in self.keys if key.id == self.current)


def publish(path: Path, keys: tuple[PublicKey, ...]) -> None:
    """Newest first; readable by all, whole or not at all. Raises VaultError."""
    document = Published(keys[0].id, keys)
    try:
        replace(path, msgspec.json.encode(document) + b"\n", 0o644)
    except OSError as error:
        raise VaultError(f"{path} cannot be written: {error.strerror}") from error


def published(path: Path) -> Published:
    """Raises VaultError for a file that is absent, or whose keys are not what their ids say."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise VaultError(
            f"the vault's public keys cannot be read from {path}: {error.strerror}",
            hint="the vault writes them when it has its keys: copy its file here",
        ) from error


def parse(content: bytes) -> Published:
    """As `published`, of the file's content."""
    try:
        document = msgspec.json.decode(content, type=Published)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise VaultError(f"no public keys of a vault: {error}") from None
    for key in document.keys:
        if len(key.key) != xwing.PUBLIC_KEY_BYTES or xwing.key_id(key.key) != key.id:
            raise VaultError(f"public key {key.id[:32]!r} is not what its id says")
    if all(key.id != document.current for key in document.keys):
        raise VaultError("the current public key is not among the keys")
    return document
