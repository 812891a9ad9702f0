"""SM4-GCM (RFC 8998) with the interface of cryptography's AESGCM: by libgcrypt or by OpenSSL.

libgcrypt has vector code for SM4 and is several times faster; it is taken where it is installed.
OpenSSL is always there.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from functools import cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.utils import Buffer

from controller.errors import VaultError

_TAG_BYTES = 16
_NONCE_BYTES = 12

# gcrypt.h
_GCRY_CIPHER_SM4 = 318
_GCRY_CIPHER_MODE_GCM = 9
_GCRYCTL_DISABLE_SECMEM = 37
_GCRYCTL_INITIALIZATION_FINISHED = 38
_GCRYCTL_INITIALIZATION_FINISHED_P = 39
_GCRYPT_LIBRARY = "libgcrypt.so.20"
_GCRYPT_VERSION = b"1.9.0"  # the first with SM4


class Sm4Gcm(ABC):
    """One 16-byte key, for one thread."""

    @abstractmethod
    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /
    ) -> int:
        """Ciphertext and tag to `buf`, which has exactly their size; returns that size."""

    @abstractmethod
    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /
    ) -> int:
        """The plaintext to `buf`. Raises InvalidTag; `buf` then holds nothing of it."""

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, /) -> bytes:
        sealed = bytearray(len(data) + _TAG_BYTES)
        self.encrypt_into(nonce, data, associated_data, sealed)
        return bytes(sealed)


class OpensslSm4Gcm(Sm4Gcm):
    def __init__(self, key: bytes) -> None:
        self._cipher = SM4(key)

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /
    ) -> int:
        sealer = Cipher(self._cipher, GCM(bytes(nonce))).encryptor()
        if associated_data is not None:
            sealer.authenticate_additional_data(associated_data)
        out = memoryview(buf)
        _fits(len(out), len(data) + _TAG_BYTES)
        size = sealer.update_into(data, out)
        sealer.finalize()
        out[size:] = sealer.tag
        return size + _TAG_BYTES

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /
    ) -> int:
        sealed, out = memoryview(data), memoryview(buf)
        if len(sealed) < _TAG_BYTES:
            raise InvalidTag
        _fits(len(out), len(sealed) - _TAG_BYTES)
        opener = Cipher(self._cipher, GCM(bytes(nonce), bytes(sealed[-_TAG_BYTES:]))).decryptor()
        if associated_data is not None:
            opener.authenticate_additional_data(associated_data)
        size = opener.update_into(sealed[:-_TAG_BYTES], out)
        try:
            opener.finalize()
        except InvalidTag:
            out[:] = bytes(len(out))
            raise
        return size


class GcryptSm4Gcm(Sm4Gcm):
    """Raises VaultError where libgcrypt is not installed or too old."""

    def __init__(self, key: bytes) -> None:
        self._handle = ctypes.c_void_p()
        library = gcrypt()
        if library is None:
            raise VaultError("libgcrypt is not installed", hint="apt install libgcrypt20")
        self._library = library
        _done(
            library.gcry_cipher_open(
                ctypes.byref(self._handle), _GCRY_CIPHER_SM4, _GCRY_CIPHER_MODE_GCM, 0
            )
        )
        _done(library.gcry_cipher_setkey(self._handle, key, len(key)))

    def __del__(self) -> None:
        if self._handle:
            self._library.gcry_cipher_close(self._handle)  # it wipes the key

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /
    ) -> int:
        size, library, handle = len(data), self._library, self._handle
        out = memoryview(buf)
        _fits(len(out), size + _TAG_BYTES)
        self._start(nonce, associated_data)
        out[:size] = data
        target = ctypes.c_char.from_buffer(out)
        at = ctypes.addressof(target)
        if size:
            _done(library.gcry_cipher_encrypt(handle, at, size, None, 0))  # in place
        _done(library.gcry_cipher_gettag(handle, at + size, _TAG_BYTES))
        return size + _TAG_BYTES

    def encrypt_chunks(
        self, base: int, first: int, plain: memoryview, size: int, out: memoryview
    ) -> None:
        """Each `size` bytes, end to end to `out`, with the next index from `first` on in its nonce.

        ctypes is asked for one address: for each chunk's it takes a tenth of the encryption.
        """
        library, handle, sealed = self._library, self._handle, size + _TAG_BYTES
        chunks = len(plain) // size
        _fits(len(out), chunks * sealed)
        if not chunks:
            return
        if plain.readonly:
            plain = memoryview(bytearray(plain))  # ctypes tells nobody where the other is
        source, target = ctypes.c_char.from_buffer(plain), ctypes.c_char.from_buffer(out)
        of, to = ctypes.addressof(source), ctypes.addressof(target)
        for index in range(first, first + chunks):
            _done(
                library.gcry_cipher_setiv(
                    handle, (base ^ index).to_bytes(_NONCE_BYTES), _NONCE_BYTES
                )
                or library.gcry_cipher_encrypt(handle, to, size, of, size)
                or library.gcry_cipher_gettag(handle, to + size, _TAG_BYTES)
            )
            of, to = of + size, to + sealed

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /
    ) -> int:
        sealed, out = memoryview(data), memoryview(buf)
        size = len(sealed) - _TAG_BYTES
        if size < 0:
            raise InvalidTag
        _fits(len(out), size)
        self._start(nonce, associated_data)
        if size:
            out[:] = sealed[:size]
            at = ctypes.byref(ctypes.c_char.from_buffer(out))
            _done(self._library.gcry_cipher_decrypt(self._handle, at, size, None, 0))
        if self._library.gcry_cipher_checktag(self._handle, bytes(sealed[size:]), _TAG_BYTES):
            out[:] = bytes(size)
            raise InvalidTag
        return size

    def _start(self, nonce: Buffer, associated_data: Buffer | None) -> None:
        iv = bytes(nonce)
        _done(self._library.gcry_cipher_setiv(self._handle, iv, len(iv)))
        if associated_data is not None:
            aad = bytes(associated_data)
            _done(self._library.gcry_cipher_authenticate(self._handle, aad, len(aad)))


def sm4_gcm(key: bytes) -> Sm4Gcm:
    """The fastest there is on this machine."""
    return GcryptSm4Gcm(key) if gcrypt() is not None else OpensslSm4Gcm(key)


@cache
def gcrypt() -> ctypes.CDLL | None:
    """libgcrypt, initialised; None when it is absent, older than 1.9 or without SM4."""
    try:
        library = ctypes.CDLL(_GCRYPT_LIBRARY)
    except OSError:
        return None
    library.gcry_check_version.restype = ctypes.c_char_p
    if not library.gcry_check_version(_GCRYPT_VERSION):
        return None
    if not library.gcry_control(_GCRYCTL_INITIALIZATION_FINISHED_P, 0):
        library.gcry_control(_GCRYCTL_DISABLE_SECMEM, 0)
        library.gcry_control(_GCRYCTL_INITIALIZATION_FINISHED, 0)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    number = ctypes.c_int
    for name, arguments in {
        "open": (pointer, number, number, ctypes.c_uint),
        "setkey": (pointer, ctypes.c_char_p, size),
        "setiv": (pointer, ctypes.c_char_p, size),
        "authenticate": (pointer, ctypes.c_char_p, size),
        "encrypt": (pointer, pointer, size, pointer, size),
        "decrypt": (pointer, pointer, size, pointer, size),
        "gettag": (pointer, pointer, size),
        "checktag": (pointer, ctypes.c_char_p, size),
        "close": (pointer,),
    }.items():
        function = getattr(library, f"gcry_cipher_{name}")
        function.argtypes = arguments
        function.restype = None if name == "close" else ctypes.c_uint
    probe = pointer()
    if library.gcry_cipher_open(ctypes.byref(probe), _GCRY_CIPHER_SM4, _GCRY_CIPHER_MODE_GCM, 0):
        return None  # built without SM4, or in FIPS mode
    library.gcry_cipher_close(probe)
    return library


def _fits(room: int, size: int) -> None:
    if room != size:
        raise ValueError(f"the buffer has {room} bytes, not {size}")


def _done(error: int) -> None:
    if error:
        raise VaultError(f"libgcrypt failed: error {error & 0xFFFF}")
