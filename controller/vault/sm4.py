"""SM4-GCM (RFC 8998) with the interface of cryptography's AESGCM."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.utils import Buffer

_TAG_BYTES = 16


class OpensslSm4Gcm:
    """By OpenSSL, which is always there; it has no vector code for SM4."""

    def __init__(self, key: bytes) -> None:
        self._cipher = SM4(key)

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /
    ) -> int:
        sealer = Cipher(self._cipher, GCM(bytes(nonce))).encryptor()
        if associated_data is not None:
            sealer.authenticate_additional_data(associated_data)
        out = memoryview(buf)
        size = sealer.update_into(data, out)
        sealer.finalize()
        out[size:] = sealer.tag
        return size + _TAG_BYTES

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /
    ) -> int:
        sealed = memoryview(data)
        if len(sealed) < _TAG_BYTES:
            raise InvalidTag
        tag = bytes(sealed[-_TAG_BYTES:])
        opener = Cipher(self._cipher, GCM(bytes(nonce), tag)).decryptor()
        if associated_data is not None:
            opener.authenticate_additional_data(associated_data)
        size = opener.update_into(sealed[:-_TAG_BYTES], buf)
        try:
            opener.finalize()
        except InvalidTag:
            memoryview(buf)[:size] = bytes(size)  # nobody may see what was not authenticated
            raise
        return size


def sm4_gcm(key: bytes) -> OpensslSm4Gcm:
    return OpensslSm4Gcm(key)
