"""A node's way to the vault: mutual TLS, and an answer or an error within DEADLINE_S."""

from __future__ import annotations

import asyncio
import io
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from controller.agent.sealing import Recording
from controller.config import Config
from controller.errors import CommandRefused, ProtocolViolation, Unreachable
from controller.pki import contexts
from controller.render.write import replace
from controller.vault import wire
from controller.vault.wire import Ack, PublicKey

DEADLINE_S = 10.0
#: an ack is some 60 bytes
ANSWER_MAX_BYTES = 4 << 20
VAULT = "vault"


@dataclass
class Flight:
    """The request under way. spooled: its number in the spool; orphan: a recording whose end the
    vault is told; late: what it carries went into the spool meanwhile."""

    task: asyncio.Task[list[Ack]]
    began_s: float
    size: int
    recordings: dict[str, Recording]
    spooled: int | None = None
    orphan: str = ""
    late: bool = False


class _VaultAlone(ssl.SSLObject):
    """Every role has a certificate of the vault's authority; recordings are for the vault alone."""

    def do_handshake(self) -> None:
        super().do_handshake()
        certificate = self.getpeercert() or {}
        subject: Any = certificate.get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        if names != [VAULT]:
            raise ssl.SSLCertVerificationError(f"{names} answers in place of the vault")


class Refusal(CommandRefused):
    """The vault answered with `status` and will do so again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Shipping:
    """Raises Unreachable when the vault is away or cannot store now, Refusal, ProtocolViolation."""

    def __init__(self, config: Config, node: str) -> None:
        self._identity = contexts.member(config, node)
        self._identity.context.sslobject_class = _VaultAlone
        self._url = f"https://{config.takes_recordings}/v1/ingest"
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def ship(self, body: bytes) -> list[Ack]:
        answer = await self._ask("POST", body)
        try:
            return wire.acks(answer)
        except msgspec.DecodeError as error:
            raise ProtocolViolation(f"the vault's answer is none: {error}") from error

    async def public_key(self) -> PublicKey:
        answer = await self._ask("GET", None)
        try:
            return wire.public_key(answer)
        except msgspec.DecodeError as error:
            raise ProtocolViolation(f"the vault's key is none: {error}") from error

    async def _ask(self, method: str, body: bytes | None) -> bytes:
        if self._identity.refresh() and self._session:
            await self._session.close()
            self._session = None
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._identity.context, limit=2),
                timeout=aiohttp.ClientTimeout(total=DEADLINE_S),
            )
        try:
            # as a file: sent piece by piece, and route questions are answered in between
            data = io.BytesIO(body) if body is not None else None
            async with self._session.request(method, self._url, data=data) as response:
                answer = await response.content.read(ANSWER_MAX_BYTES)
                if response.status == 200 and response.content.at_eof():
                    return answer
                words = f"the vault answers {response.status}: {_said(answer)}"
                if response.status >= 500 or response.status in (408, 429):
                    raise Unreachable(words)
                raise Refusal(words, response.status)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unreachable(
                f"the vault at {self._url} does not answer: {error or type(error).__name__}"
            ) from error


def _said(answer: bytes) -> str:
    return answer[:200].decode("utf-8", "replace").replace("\n", " ")


def kept_key(path: Path) -> PublicKey | None:
    """The vault's public key as it was last seen: recording begins also while it is away."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=PublicKey)
    except (OSError, msgspec.DecodeError):
        return None


def keep_key(path: Path, key: PublicKey) -> None:
    replace(path, msgspec.json.encode(key).decode(), 0o640)
