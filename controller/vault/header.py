"""What a recording says of itself: openly in its header, to the vault alone in its envelope.

The header's bytes are the body's context and part of the envelope's HPKE info: a body or an
envelope that is moved to another tenant, node, recording or start no longer opens.
"""

from __future__ import annotations

import re

import msgspec

from controller.errors import Tampered, VaultError
from controller.vault import xwing
from controller.vault.suites import DATA_KEY_BYTES, SUITES

PARTICULARS_MAX_BYTES = 512

_MAGIC = "pbxctl-recording-1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_RECORDING = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ENVELOPE_VERSION = 1
_KEY_ID_BYTES = 8
_INFO = b"pbxctl recording envelope 1\0"
_LENGTH_BYTES = 2
_PLAIN_BYTES = DATA_KEY_BYTES + _LENGTH_BYTES + PARTICULARS_MAX_BYTES
ENVELOPE_BYTES = 1 + _KEY_ID_BYTES + xwing.OVERHEAD_BYTES + _PLAIN_BYTES


class Header(msgspec.Struct, frozen=True):
    """What anybody may know of a recording. Raises VaultError for values that cannot be.

    recording: 32 lower-case hex digits, made by a server. started_us: Unix time of the first
    sample. The audio is s16le, `channels` interleaved.
    """

    tenant: str
    node: str
    recording: str
    started_us: int
    suite: str = "cobblestone-256"
    rate_hz: int = 8000
    channels: int = 2

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.tenant):
            raise VaultError(f"no tenant's name: {self.tenant[:64]!r}")
        if not _NAME.fullmatch(self.node):
            raise VaultError(f"no node's name: {self.node[:64]!r}")
        if not _RECORDING.fullmatch(self.recording):
            raise VaultError(f"no recording's id: {self.recording[:64]!r}")
        if self.suite not in SUITES:
            raise VaultError(f"no cipher suite is named {self.suite[:40]!r}")
        if not 0 <= self.started_us < 1 << 62:
            raise VaultError(f"no time: {self.started_us} µs")
        if not 1 <= self.rate_hz <= 192_000 or self.channels not in (1, 2):
            raise VaultError(f"no audio of ours: {self.rate_hz} Hz, {self.channels} channels")

    def encode(self) -> bytes:
        """The one encoding of these values; also the body's context."""
        return msgspec.msgpack.encode((_MAGIC, *msgspec.structs.astuple(self)))


class Particulars(msgspec.Struct, frozen=True, omit_defaults=True):
    """Personal data of a recording, which only the vault may know. As JSON in the envelope."""

    call: str
    caller: str
    callee: str
    rule: str
    retention_days: int
    reason: str = ""

    def encode(self) -> bytes:
        """Raises VaultError when the texts are too long for an envelope."""
        data = msgspec.json.encode(self)
        if len(data) > PARTICULARS_MAX_BYTES:
            raise VaultError(f"particulars of {len(data)} bytes; {PARTICULARS_MAX_BYTES} fit")
        return data


_FIELDS = msgspec.msgpack.Decoder(tuple[str, str, str, str, int, str, int, int])
_PARTICULARS = msgspec.json.Decoder(Particulars)


def decode(data: bytes) -> Header:
    """Raises VaultError for anything but what Header.encode writes."""
    try:
        magic, *fields = _FIELDS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise VaultError(f"no recording's header: {error}") from None
    if magic != _MAGIC:
        raise VaultError(f"a header of another kind: {magic[:40]!r}")
    header = Header(*fields)  # type: ignore[arg-type]
    if header.encode() != data:
        raise VaultError("a header that is not in its one encoding")
    return header


def decode_particulars(data: bytes) -> Particulars:
    """Raises VaultError for anything but what Particulars.encode writes."""
    try:
        return _PARTICULARS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise VaultError(f"no particulars: {error}") from None


def seal_envelope(
    public_key: bytes, key_id: str, header: Header, data_key: bytes, particulars: bytes
) -> bytes:
    """ENVELOPE_BYTES, however long the particulars are: their length tells nothing."""
    if len(data_key) != DATA_KEY_BYTES:
        raise VaultError(f"a data key has {DATA_KEY_BYTES} bytes, not {len(data_key)}")
    if len(particulars) > PARTICULARS_MAX_BYTES:
        raise VaultError(f"particulars of {len(particulars)} bytes; {PARTICULARS_MAX_BYTES} fit")
    if key_id != xwing.key_id(public_key):
        raise VaultError(f"the public key is not {key_id[:32]!r}")
    prefix = bytes([_ENVELOPE_VERSION]) + bytes.fromhex(key_id)
    length = len(particulars).to_bytes(_LENGTH_BYTES)
    plain = (data_key + length + particulars).ljust(_PLAIN_BYTES, b"\0")
    return prefix + xwing.seal(public_key, _info(prefix, header), plain)


def open_envelope(private_key: bytes, header: Header, envelope: bytes) -> tuple[bytes, bytes]:
    """(data key, particulars). Raises Tampered when header, key and envelope are not of a piece."""
    envelope_key_id(envelope)
    prefix, sealed = envelope[: 1 + _KEY_ID_BYTES], envelope[1 + _KEY_ID_BYTES :]
    plain = xwing.open_sealed(private_key, _info(prefix, header), sealed)
    particulars_at = DATA_KEY_BYTES + _LENGTH_BYTES
    length = int.from_bytes(plain[DATA_KEY_BYTES:particulars_at])
    if len(plain) != _PLAIN_BYTES or length > PARTICULARS_MAX_BYTES:
        raise Tampered("an envelope of another shape")
    return plain[:DATA_KEY_BYTES], plain[particulars_at : particulars_at + length]


def envelope_key_id(envelope: bytes) -> str:
    """Which key pair opens it, unproven until it is open. Raises VaultError for another shape."""
    if len(envelope) != ENVELOPE_BYTES or envelope[0] != _ENVELOPE_VERSION:
        raise VaultError(f"no envelope of ours: {len(envelope)} bytes")
    return envelope[1 : 1 + _KEY_ID_BYTES].hex()


def _info(prefix: bytes, header: Header) -> bytes:
    return _INFO + prefix + header.encode()
