"""The signed record of an erasure: what was erased, when, why, and by which means.

statement: canonical JSON, keys sorted. signature: Ed25519 over CONTEXT and the statement, by a key
that only this vault has. Whoever kept the vault's public key can verify it without the vault.
"""

from __future__ import annotations

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from controller.errors import Tampered
from controller.records.recording_rows import Erasure

CONTEXT = b"pbxctl erasure 1\0"


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """header_sha256: of the header, which binds the record to one body and to no other.

    reason: begins with who ordered it, or with "retention: ".
    """

    fleet: str
    tenant: str
    node: str
    recording: str
    started_ms: int
    header_sha256: str
    erased_ms: int
    reason: str
    means: str = "the key slot was overwritten; no copy of the body can be read"


def sign(seed: bytes, statement: Statement) -> Erasure:
    said = msgspec.json.encode(statement, order="sorted")
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(CONTEXT + said)
    return Erasure(statement.recording, statement.erased_ms, said, signature)


def public_key(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def verify(public: bytes, statement: bytes, signature: bytes) -> Statement:
    """Raises Tampered when that key did not sign that statement."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, CONTEXT + statement)
        return msgspec.json.decode(statement, type=Statement)
    except (InvalidSignature, ValueError, msgspec.DecodeError):
        raise Tampered("the erasure record is not what the vault signed") from None
