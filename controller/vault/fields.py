"""Personal data in the index: sealed under a key of its recording, found by a keyed hash.

The key is HKDF-SHA256 of the recording's data key. Whoever destroys the key slot has erased these
fields in every copy and backup of the index as well.
"""

from __future__ import annotations

import hmac
import os
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from controller.errors import Tampered

_NONCE_BYTES = 12
_TAG_BYTES = 16
#: lengths are hidden up to the next multiple
_PAD_BYTES = 32
_NOT_NUMBER = re.compile(r"[^0-9a-z+@._*#-]")


def seal_field(data_key: bytes, recording: str, field: str, text: str) -> bytes:
    """nonce || AES-256-GCM(length (2) || UTF-8 || zeros)."""
    data = text.encode()
    padded = len(data).to_bytes(2) + data
    padded += bytes(-len(padded) % _PAD_BYTES)
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher(data_key, recording).encrypt(nonce, padded, field.encode())


def open_field(data_key: bytes, recording: str, field: str, sealed: bytes) -> str:
    """Raises Tampered when it was sealed for another recording or field."""
    nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        padded = _cipher(data_key, recording).decrypt(nonce, rest, field.encode())
    except (InvalidTag, ValueError):
        raise Tampered(f"{field} of {recording} is not what was sealed") from None
    return padded[2 : 2 + int.from_bytes(padded[:2])].decode()


def tag(tags_key: bytes, tenant: str, number: str) -> bytes:
    """Equal for the same number, however it is written, of one tenant; says nothing else of it."""
    plain = _NOT_NUMBER.sub("", number.lower())
    return hmac.digest(tags_key, f"{tenant}\0{plain}".encode(), "sha256")[:_TAG_BYTES]


def _cipher(data_key: bytes, recording: str) -> AESGCM:
    info = b"pbxctl recording fields\0" + bytes.fromhex(recording)
    return AESGCM(HKDF(SHA256(), 32, None, info).derive(data_key))
