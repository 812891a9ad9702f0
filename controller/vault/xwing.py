"""X-Wing key pairs (ML-KEM-768 with X25519) and HPKE sealing to them.

HPKE base mode, RFC 9180: KEM X-Wing 0x647a, KDF HKDF-SHA256 0x0001, AEAD AES-256-GCM 0x0002.
A private key is X-Wing's 32-byte seed (draft-connolly-cfrg-xwing-kem); a public key is the
1184 bytes of ML-KEM-768, then the 32 of X25519.
"""

from __future__ import annotations

import hashlib
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from controller.errors import Tampered, VaultError

PRIVATE_KEY_BYTES = 32
_MLKEM_PUBLIC_BYTES = 1184
PUBLIC_KEY_BYTES = _MLKEM_PUBLIC_BYTES + 32
#: what sealing adds: the encapsulated key and the tag
OVERHEAD_BYTES = 1120 + 16

_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def generate() -> bytes:
    """A new private key."""
    return secrets.token_bytes(PRIVATE_KEY_BYTES)


def public_key(private_key: bytes) -> bytes:
    mlkem, x25519 = _expand(private_key)
    return mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()


def key_id(public: bytes) -> str:
    """16 hex digits that name the pair."""
    return hashlib.sha256(public).hexdigest()[:16]


def seal(public: bytes, info: bytes, plain: bytes) -> bytes:
    """Raises VaultError for bytes that are no public key."""
    if len(public) != PUBLIC_KEY_BYTES:
        raise VaultError(f"an X-Wing public key has {PUBLIC_KEY_BYTES} bytes, not {len(public)}")
    try:
        key = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:]),
        )
        return _SUITE.encrypt(plain, key, info)
    except ValueError as error:
        raise VaultError(f"no X-Wing public key: {error}") from None


def open_sealed(private_key: bytes, info: bytes, sealed: bytes) -> bytes:
    """Raises Tampered when the bytes, the info or the key are not those of sealing."""
    key = hpke.MLKEM768X25519PrivateKey(*_expand(private_key))
    try:
        return _SUITE.decrypt(sealed, key, info)
    except (InvalidTag, ValueError):
        raise Tampered("the envelope was altered, or sealed to another key or header") from None


def _expand(private_key: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    if len(private_key) != PRIVATE_KEY_BYTES:
        raise VaultError(f"an X-Wing private key has {PRIVATE_KEY_BYTES} bytes")
    expanded = hashlib.shake_256(private_key).digest(96)
    return (
        MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        X25519PrivateKey.from_private_bytes(expanded[64:]),
    )
