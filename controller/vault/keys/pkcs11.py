"""Keys guarded by a PKCS#11 device: an AES-256 key that never leaves it wraps and unwraps.

Wrapped = nonce (12) || CKM_AES_GCM ciphertext with its tag. The key is sensitive and not
extractable; a key of that label that is extractable is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import (
    EncryptedDataInvalid,
    EncryptedDataLenRange,
    GeneralError,
    NoSuchKey,
    NoSuchToken,
    PinExpired,
    PinIncorrect,
    PinLenRange,
    PinLocked,
    PKCS11Error,
    UserAlreadyLoggedIn,
)
from pkcs11.mechanisms import GCMParams

from controller.errors import KeysUnreachable, LoginRefused, Tampered, UsageError, VaultError

_NONCE_BYTES = 12
_TAG_BITS = 128


class _AesKey(Protocol):
    """The library puts these into the class at run time, by what the token allows."""

    def encrypt(
        self, data: bytes, *, mechanism: Mechanism, mechanism_param: GCMParams
    ) -> bytes: ...

    def decrypt(
        self, data: bytes, *, mechanism: Mechanism, mechanism_param: GCMParams
    ) -> bytes: ...

    def __getitem__(self, attribute: Attribute, /) -> Any: ...


class Pkcs11Provider:
    """module: the vendor's shared library. create: make the key when there is none.

    Raises UsageError for a token or key that is not there, LoginRefused for the PIN,
    KeysUnreachable when module or device fail.
    """

    name = "pkcs11"

    def __init__(
        self, module: str, token: str, pin: str, key: str, *, create: bool = False
    ) -> None:
        with _translated():
            library = pkcs11.lib(module)
            try:
                found = library.get_token(token_label=token)
            except NoSuchToken:
                raise UsageError(
                    f"no token {token!r} in {module}", hint="pkcs11-tool --list-slots names them"
                ) from None
            try:
                self._session = found.open(rw=create, user_pin=pin)
            except UserAlreadyLoggedIn:  # a login is for the whole process, says PKCS#11 6.7.4
                self._session = found.open(rw=create)
        try:
            with _translated():
                self._key = self._find(key, create)
        except BaseException:
            self.close()
            raise

    def _find(self, label: str, create: bool) -> _AesKey:
        try:
            key = self._session.get_key(
                object_class=ObjectClass.SECRET_KEY, key_type=KeyType.AES, label=label
            )
        except NoSuchKey:
            if not create:
                raise UsageError(f"no AES key {label!r} in the token") from None
            key = self._session.generate_key(
                KeyType.AES,
                256,
                label=label,
                id=os.urandom(8),
                store=True,
                template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )
        if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
            raise VaultError(
                f"key {label!r} can be read out of the token",
                hint="use one that is sensitive and not extractable",
            )
        return cast(_AesKey, key)

    def wrap(self, secret: bytes, purpose: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        with _translated():
            return nonce + self._key.encrypt(
                secret,
                mechanism=Mechanism.AES_GCM,
                mechanism_param=GCMParams(nonce, purpose, _TAG_BITS),
            )

    def unwrap(self, wrapped: bytes, purpose: bytes) -> bytes:
        nonce = wrapped[:_NONCE_BYTES]
        if len(wrapped) < _NONCE_BYTES + _TAG_BITS // 8:
            raise Tampered("a wrapped key is cut off")
        try:
            with _translated():
                return self._key.decrypt(
                    wrapped[_NONCE_BYTES:],
                    mechanism=Mechanism.AES_GCM,
                    mechanism_param=GCMParams(nonce, purpose, _TAG_BITS),
                )
        except KeysUnreachable as error:
            # SoftHSM answers CKR_GENERAL_ERROR to a wrong tag; only a device that still wraps
            # and unwraps shows that the bytes, not the device, are at fault.
            if isinstance(error.__cause__, GeneralError) and self._works():
                raise Tampered("a wrapped key was altered, or belongs to another key") from None
            raise

    def _works(self) -> bool:
        nonce = os.urandom(_NONCE_BYTES)
        param = GCMParams(nonce, b"", _TAG_BITS)
        try:
            sealed = self._key.encrypt(nonce, mechanism=Mechanism.AES_GCM, mechanism_param=param)
            opened = self._key.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=param)
        except PKCS11Error:
            return False
        return bytes(opened) == nonce

    def close(self) -> None:
        with _translated():
            self._session.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (EncryptedDataInvalid, EncryptedDataLenRange):
        raise Tampered("a wrapped key was altered, or belongs to another key") from None
    except (PinIncorrect, PinLenRange, PinLocked, PinExpired) as error:
        raise LoginRefused(f"the token refuses the PIN: {type(error).__name__}") from None
    except PKCS11Error as error:
        said = str(error) or type(error).__name__
        raise KeysUnreachable(
            f"the PKCS#11 device does not work: {said}", hint="is the module's path right?"
        ) from error
