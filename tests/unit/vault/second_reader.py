"""A reader of recordings written from docs/vault-format.md alone: nothing of controller is used.

MessagePack, HKDF, HPKE's key schedule and X-Wing are done here by hand; hashes, AES, SM4, ML-KEM
and X25519 come from the standard library and cryptography.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
import zlib

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4

SUITES: dict[str, tuple[str, bytes, int, type[AES] | type[SM4]]] = {
    "cobblestone-256": ("sha512", b"AEAD_AES_256_GCM", 32, AES),
    "sm4-gcm": ("sm3", b"AEAD_SM4_GCM", 16, SM4),
}


def gcm_open(
    algorithm: type[AES] | type[SM4], key: bytes, nonce: bytes, sealed: bytes, aad: bytes = b""
) -> bytes:
    opener = Cipher(algorithm(key), modes.GCM(nonce, sealed[-16:])).decryptor()
    opener.authenticate_additional_data(aad)
    return opener.update(sealed[:-16]) + opener.finalize()


def mac(name: str, key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, name).digest()


def expand(name: str, prk: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869, 2.3."""
    out = block = b""
    for number in range(1, 256):
        block = mac(name, prk, block + info + bytes([number]))
        out += block
        if len(out) >= size:
            return out[:size]
    raise ValueError(size)


def read_header(data: bytes) -> list[str | int]:
    """The eight fields."""
    assert data[0] == 0x98
    values: list[str | int] = []
    at = 1
    for _ in range(8):
        kind = data[at]
        at += 1
        if 0xA0 <= kind <= 0xBF or kind == 0xD9:
            size = kind & 0x1F
            if kind == 0xD9:
                size, at = data[at], at + 1
                assert size > 31
            values.append(data[at : at + size].decode("ascii"))
            at += size
        elif kind < 0x80:
            values.append(kind)
        else:
            size = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}[kind]
            value = int.from_bytes(data[at : at + size], "big")
            assert value >= {1: 1 << 7, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}[size]
            values.append(value)
            at += size
    assert at == len(data)
    assert values[0] == "pbxctl-recording-1"
    assert re.fullmatch("[0-9a-f]{32}", str(values[3]))
    return values


def read_body(body: bytes, data_key: bytes, header: bytes, *, complete: bool = True) -> bytes:
    name, aead, key_bytes, algorithm = SUITES[str(read_header(header)[5])]
    salt, commitment = body[:24], body[24:56]
    info = b"c2sp.org/chunked-encryption@v1+" + aead + b"\0" + salt + header
    derived = expand(name, data_key, info, key_bytes + 44)
    key, base = derived[:key_bytes], derived[key_bytes : key_bytes + 12]
    assert hmac.compare_digest(commitment, derived[key_bytes + 12 :])
    chunks = [body[at : at + 16400] for at in range(56, len(body), 16400)]
    if complete:
        assert chunks and 16 <= len(chunks[-1]) < 16400
    audio = b""
    for number, chunk in enumerate(chunks):
        nonce = bytes(a ^ b for a, b in zip(base, number.to_bytes(12, "big"), strict=True))
        audio += gcm_open(algorithm, key, nonce, chunk)
    return audio


def open_hpke(seed: bytes, info: bytes, sealed: bytes) -> bytes:
    enc, ciphertext = sealed[:1120], sealed[1120:]
    wide = hashlib.shake_256(seed).digest(96)
    mlkem, x25519 = MLKEM768PrivateKey.from_seed_bytes(wide[:64]), wide[64:]
    private = X25519PrivateKey.from_private_bytes(x25519)
    shared = hashlib.sha3_256(
        mlkem.decapsulate(enc[:1088])
        + private.exchange(X25519PublicKey.from_public_bytes(enc[1088:]))
        + enc[1088:]
        + private.public_key().public_bytes_raw()
        + rb"\.//^" + b"\x5c"
    ).digest()  # fmt: skip
    suite = b"HPKE" + struct.pack(">HHH", 0x647A, 1, 2)

    def extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
        return mac("sha256", salt, b"HPKE-v1" + suite + label + ikm)

    def labelled(secret: bytes, label: bytes, context: bytes, size: int) -> bytes:
        whole = struct.pack(">H", size) + b"HPKE-v1" + suite + label + context
        return expand("sha256", secret, whole, size)

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    key = labelled(secret, b"key", context, 32)
    return gcm_open(AES, key, labelled(secret, b"base_nonce", context, 12), ciphertext)


def read_envelope(envelope: bytes, seed: bytes, header: bytes) -> tuple[bytes, bytes]:
    """(data key, particulars)"""
    assert len(envelope) == 1691
    assert envelope[0] == 1
    info = b"pbxctl recording envelope 1\0" + envelope[:9] + header
    plain = open_hpke(seed, info, envelope[9:])
    assert len(plain) == 546
    size = int.from_bytes(plain[32:34], "big")
    assert not plain[34 + size :].strip(b"\0")
    return plain[:32], plain[34 : 34 + size]


def read_slots(file: bytes) -> dict[bytes, bytes]:
    """Payloads by owner."""
    assert file[:16] == b"pbxctl-slots-1\n\0"
    size = int.from_bytes(file[16:20], "big")
    found = {}
    for at in range(4096, len(file), size):
        slot = file[at : at + size]
        length = int.from_bytes(slot[2:4], "big")
        if slot[0] == 1:
            assert zlib.crc32(slot[:4] + slot[8 : 24 + length]) == int.from_bytes(slot[4:8], "big")
            found[slot[8:24]] = slot[24 : 24 + length]
    return found


def read_key_slot(payload: bytes, kek: bytes, recording: bytes) -> bytes:
    return gcm_open(AES, kek, payload[16:28], payload[28:], b"pbxctl key slot\0" + recording)


def unwrap_by_key_file(wrapped: bytes, master: bytes, purpose: bytes) -> bytes:
    return gcm_open(AES, master, wrapped[:12], wrapped[12:], purpose)


def master_key(passphrase: bytes, log_n: int, salt: bytes, sealed: bytes) -> bytes:
    key = hashlib.scrypt(passphrase, salt=salt, n=1 << log_n, r=8, p=1, maxmem=1 << 28, dklen=32)
    return gcm_open(AES, key, sealed[:12], sealed[12:], b"pbxctl-key-file-1")
