"""Keys guarded by the transit engine of OpenBao or HashiCorp Vault, over TLS.

POST /v1/MOUNT/encrypt/KEY and /decrypt/KEY with {plaintext | ciphertext, associated_data} in
base64; the key must be of an AEAD type (aes256-gcm96, its default). The token is read from its
file at each request, because a renewer writes a new one there.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import ssl
from pathlib import Path
from urllib.parse import quote, urlsplit

import msgspec

from controller.config import read_secret
from controller.errors import KeysUnreachable, LoginRefused, Tampered, UsageError, VaultError

_TIMEOUT_S = 5.0
_ANSWER_MAX_BYTES = 64 << 10
_PREFIX = "vault:"


class _Data(msgspec.Struct, frozen=True):
    plaintext: str = ""
    ciphertext: str = ""


class _Answer(msgspec.Struct, frozen=True):
    data: _Data | None = None
    errors: tuple[str, ...] = ()


class TransitProvider:
    """url: https://host:port. ca: PEM file of the service's authority, None for the system's.

    client: certificate and key files, where the service asks for them. Nothing is sent before
    the first wrap or unwrap.
    """

    name = "transit"

    def __init__(
        self,
        url: str,
        key: str,
        token_file: Path,
        *,
        mount: str = "transit",
        ca: Path | None = None,
        client: tuple[Path, Path] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
            raise UsageError(f"no https address: {url}", hint="as in https://bao.example:8200")
        self._host, self._port = parts.hostname, parts.port or 443
        self._path = f"/v1/{quote(mount)}/%s/{quote(key, safe='')}"
        self._token_file = token_file
        self._timeout_s = timeout_s
        try:
            self._tls = ssl.create_default_context(cafile=ca)
            if client is not None:
                self._tls.load_cert_chain(*client)
        except OSError as error:
            raise UsageError(f"certificates for {url} cannot be read: {error}") from error
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2  # OpenBao behind older balancers

    def wrap(self, secret: bytes, purpose: bytes) -> bytes:
        answer = self._ask("encrypt", plaintext=_text(secret), associated_data=_text(purpose))
        if answer is None or not answer.ciphertext.startswith(_PREFIX):
            raise VaultError("the key service's answer has no ciphertext")
        return answer.ciphertext.encode()

    def unwrap(self, wrapped: bytes, purpose: bytes) -> bytes:
        try:
            ciphertext = wrapped.decode("ascii")
        except UnicodeDecodeError:
            raise Tampered("a wrapped key is not one of the key service's") from None
        answer = self._ask("decrypt", ciphertext=ciphertext, associated_data=_text(purpose))
        if answer is None:
            raise Tampered("the key service does not open a wrapped key: altered, or another key")
        try:
            return base64.b64decode(answer.plaintext, validate=True)
        except binascii.Error:
            raise VaultError("the key service's answer has no plaintext") from None

    def close(self) -> None:
        """Nothing is held between requests."""

    def _ask(self, verb: str, **fields: str) -> _Data | None:
        """None for 400: transit says so to a ciphertext that does not open."""
        token = read_secret(self._token_file)
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout_s, context=self._tls
        )
        try:
            connection.request(
                "POST",
                self._path % verb,
                msgspec.json.encode(fields),
                {"X-Vault-Token": token, "Content-Type": "application/json"},
            )
            response = connection.getresponse()
            body = response.read(_ANSWER_MAX_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise KeysUnreachable(
                f"key service {self._host}:{self._port} does not answer: {error}"
            ) from error
        finally:
            connection.close()
        return self._judge(verb, response.status, body)

    def _judge(self, verb: str, status: int, body: bytes) -> _Data | None:
        where = f"key service {self._host}:{self._port}"
        if status in (401, 403):
            raise LoginRefused(
                f"{where} refuses the token", hint=f"renew the one in {self._token_file}"
            )
        if status == 404:
            raise UsageError(f"{where} has no {self._path % verb}", hint="check mount and key")
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer = _Answer()
        said = "; ".join(answer.errors)[:200]
        if status == 400 and verb == "decrypt":
            return None
        if status == 400:
            raise VaultError(f"{where} refuses: {said}")
        if status != 200 or answer.data is None:
            # 503 is a sealed or standby server, 429 a quota, 5xx whatever broke
            raise KeysUnreachable(f"{where} answers {status}: {said or 'nothing of use'}")
        return answer.data


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
