"""The cipher suites of a body. Both frame and derive alike; only hash and cipher differ.

cobblestone-256 is the named instantiation of c2sp.org/chunked-encryption: HKDF-Expand with
SHA-512, AES-256-GCM. sm4-gcm is the same with SM3 and SM4-GCM (RFC 8998).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.utils import Buffer

from controller.errors import VaultError
from controller.vault.sm4 import GcryptSm4Gcm, sm4_gcm

SALT_BYTES = 24
DATA_KEY_BYTES = 32
COMMITMENT_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class Aead(Protocol):
    """AES-GCM as `cryptography` has it; an instance holds one key and is for one thread."""

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /
    ) -> int:
        """Writes ciphertext and tag to `buf`, whose size must fit exactly; returns that size."""

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, /) -> bytes:
        """Ciphertext and tag."""

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /
    ) -> int:
        """The plaintext to `buf`. Raises cryptography.exceptions.InvalidTag."""


@dataclass(frozen=True)
class Suite:
    """aead_name: as IANA registers it; it goes into the derivation, so suites never share keys."""

    name: str
    aead_name: bytes
    key_bytes: int
    hash: hashes.HashAlgorithm
    aead: Callable[[bytes], Aead]

    def derive(self, data_key: bytes, salt: bytes, context: bytes) -> tuple[bytes, bytes, bytes]:
        """(key, base nonce, commitment) of one body."""
        if len(data_key) != DATA_KEY_BYTES or len(salt) != SALT_BYTES:
            raise VaultError(
                f"a data key has {DATA_KEY_BYTES} bytes and a salt {SALT_BYTES},"
                f" not {len(data_key)} and {len(salt)}"
            )
        info = b"c2sp.org/chunked-encryption@v1+" + self.aead_name + b"\0" + salt + context
        size = self.key_bytes + NONCE_BYTES + COMMITMENT_BYTES
        derived = HKDFExpand(self.hash, size, info).derive(data_key)
        nonce_at = self.key_bytes
        return (
            derived[:nonce_at],
            derived[nonce_at : nonce_at + NONCE_BYTES],
            derived[nonce_at + NONCE_BYTES :],
        )


SUITES = {
    suite.name: suite
    for suite in (
        Suite("cobblestone-256", b"AEAD_AES_256_GCM", 32, hashes.SHA512(), AESGCM),
        Suite("sm4-gcm", b"AEAD_SM4_GCM", 16, hashes.SM3(), sm4_gcm),
    )
}


#: (base nonce, index of the first, plaintext of whole chunks, their size, where to, end to end)
EncryptChunks = Callable[[int, int, memoryview, int, memoryview], None]


def chunk_encrypter(aead: Aead) -> EncryptChunks:
    """Encrypts chunks that follow one another, each with its index in its nonce."""
    if isinstance(aead, GcryptSm4Gcm):
        return aead.encrypt_chunks
    return partial(_one_by_one, aead.encrypt_into)


def _one_by_one(
    encrypt_into: Callable[[Buffer, Buffer, Buffer | None, Buffer], int],
    base: int,
    first: int,
    plain: memoryview,
    size: int,
    out: memoryview,
) -> None:
    sealed = size + TAG_BYTES
    starts, ends = range(0, len(plain), size), range(0, len(out), sealed)
    for index, (start, end) in enumerate(zip(starts, ends, strict=True), first):
        encrypt_into(
            (base ^ index).to_bytes(NONCE_BYTES),
            plain[start : start + size],
            None,
            out[end : end + sealed],
        )


def suite_named(name: str) -> Suite:
    """Raises VaultError for a name that is no suite."""
    try:
        return SUITES[name]
    except KeyError:
        known = ", ".join(SUITES)
        raise VaultError(
            f"no cipher suite is named {name[:40]!r}", hint=f"known: {known}"
        ) from None
