"""A recording's sealed body: c2sp.org/chunked-encryption, chunk by chunk and in any order.

    body     = prologue || chunk 0 || chunk 1 || …
    prologue = salt (24) || commitment (32)
    chunk i  = AEAD(key, base nonce XOR i, plain[i * 16384 : (i + 1) * 16384]) with its 16-byte tag

Whole chunks hold 16384 bytes, the last fewer, maybe none: being short is what makes it the last.
So a body cut at a chunk's end has no last chunk, and is known to be cut.

The invariant: one index is sealed with one plaintext only. Sealing a chunk again after a crash
gives the same bytes; sealing a short chunk and later a longer one at the same index would use a
nonce twice and give both away. Seal the last chunk only after a durable note that there is no more.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.utils import Buffer

from controller.errors import Tampered, VaultError
from controller.vault.suites import (
    COMMITMENT_BYTES,
    NONCE_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    chunk_encrypter,
    suite_named,
)

CHUNK = 16384
SEALED = CHUNK + TAG_BYTES
PROLOGUE = SALT_BYTES + COMMITMENT_BYTES
#: the specification's limit
CHUNKS_MAX = 1 << 38
_PART_CHUNKS = 64


def plain_size(sealed_bytes: int, *, complete: bool) -> int:
    """Bytes of audio in a body of that size. Raises Tampered for a size that no such body has."""
    chunks, rest = divmod(sealed_bytes - PROLOGUE, SEALED)
    if sealed_bytes < PROLOGUE:
        raise Tampered(f"the body has {sealed_bytes} bytes, fewer than its first {PROLOGUE}")
    if rest == 0:
        if complete:
            raise Tampered(f"cut off: chunk {chunks}, the last one, is missing", chunk=chunks)
        return chunks * CHUNK
    if rest < TAG_BYTES:
        raise Tampered(f"cut off in chunk {chunks}", chunk=chunks)
    return chunks * CHUNK + rest - TAG_BYTES


class Sealer:
    """Seals chunks of one body, in any order, again if need be. For one thread."""

    def __init__(self, suite: str, data_key: bytes, context: bytes, salt: bytes) -> None:
        chosen = suite_named(suite)
        key, nonce, commitment = chosen.derive(data_key, salt, context)
        self.prologue = salt + commitment
        aead = chosen.aead(key)
        self._encrypt, self._encrypt_chunks = aead.encrypt, chunk_encrypter(aead)
        self._base_nonce = int.from_bytes(nonce)

    def seal(self, index: int, plain: Buffer, last: bool = False) -> bytes:
        """Chunk `index`. A last one is shorter than CHUNK, any other has exactly CHUNK bytes."""
        size = len(plain)
        if size > CHUNK or (size < CHUNK) is not last:
            expected = f"fewer than {CHUNK}" if last else f"{CHUNK}"
            raise VaultError(f"chunk {index} has {size} bytes, not {expected}")
        if not 0 <= index < CHUNKS_MAX:
            raise VaultError(f"chunk {index} is out of range")
        return self._encrypt((self._base_nonce ^ index).to_bytes(NONCE_BYTES), plain, None)

    def seal_into(self, first: int, plain: Buffer, out: Buffer) -> int:
        """Whole chunks `first`, `first + 1`, … end to end into `out`; returns the bytes written.

        plain: a multiple of CHUNK, never the last chunk. out: at least SEALED for each.
        """
        source, target = memoryview(plain), memoryview(out)
        chunks, rest = divmod(len(source), CHUNK)
        if rest or len(target) < chunks * SEALED:
            raise VaultError(f"{len(source)} bytes are no whole chunks, or have no room")
        if first < 0 or first + chunks > CHUNKS_MAX:
            raise VaultError(f"chunk {first} is out of range")
        self._encrypt_chunks(self._base_nonce, first, source, CHUNK, target[: chunks * SEALED])
        return chunks * SEALED


class Reader:
    """Plaintext of one body at any place, opening only the chunks that hold it. For one thread.

    read(offset, size): bytes of the body, prologue included; fewer only where the body ends.
    sealed_bytes: the size of the body, prologue included. complete: whether it was sealed to its
    last chunk; then the last chunk is opened at once, so that `plain_bytes` is proven and not
    merely told. Of an incomplete body nobody can prove how long it was.

    Raises Tampered with the chunk, here and in every read; nothing is returned of a chunk that
    is not genuine. `bad_chunks` finds all of them.
    """

    def __init__(
        self,
        suite: str,
        data_key: bytes,
        context: bytes,
        read: Callable[[int, int], bytes],
        sealed_bytes: int,
        complete: bool,
    ) -> None:
        self.plain_bytes = plain_size(sealed_bytes, complete=complete)
        prologue = read(0, PROLOGUE)
        if len(prologue) != PROLOGUE:
            raise Tampered("cut off in the prologue")
        chosen = suite_named(suite)
        key, nonce, commitment = chosen.derive(data_key, prologue[:SALT_BYTES], context)
        if not hmac.compare_digest(commitment, prologue[SALT_BYTES:]):
            raise Tampered("the body belongs to another recording, header or key")
        self._decrypt_into = chosen.aead(key).decrypt_into
        self._base_nonce = int.from_bytes(nonce)
        self._read = read
        self._sealed_bytes = sealed_bytes
        #: how many chunks there are, the short one at the end counted too
        self.chunks = -(-(sealed_bytes - PROLOGUE) // SEALED)
        if complete:
            self.open_chunks(self.chunks - 1, self.chunks)

    def read(self, offset: int, size: int) -> bytes:
        """Like a slice: fewer bytes, or none, beyond the end."""
        end = min(offset + size, self.plain_bytes)
        if offset < 0 or size < 0:
            raise VaultError(f"no {size} bytes at {offset}")
        if offset >= end:
            return b""
        first = offset // CHUNK
        plain = self.open_chunks(first, -(-end // CHUNK))
        return bytes(memoryview(plain)[offset - first * CHUNK : end - first * CHUNK])

    def parts(self, offset: int = 0, part_bytes: int = _PART_CHUNKS * CHUNK) -> Iterator[bytes]:
        """Everything from `offset` on, in order, at most about `part_bytes` at a time."""
        while offset < self.plain_bytes:
            part = self.read(offset, part_bytes - offset % CHUNK)
            yield part
            offset += len(part)

    def open_chunks(self, first: int, end: int) -> bytearray:
        """Plaintext of the chunks `first` to `end` - 1, which there must be."""
        sealed_from = PROLOGUE + first * SEALED
        wanted = min(PROLOGUE + end * SEALED, self._sealed_bytes) - sealed_from
        sealed = memoryview(self._read(sealed_from, wanted))
        if len(sealed) != wanted:
            chunk = first + len(sealed) // SEALED
            raise Tampered(f"cut off in chunk {chunk}", chunk=chunk)
        plain = bytearray(wanted - (end - first) * TAG_BYTES)
        target = memoryview(plain)
        for index in range(first, end):
            place = index - first
            piece = sealed[place * SEALED : (place + 1) * SEALED]
            start = place * CHUNK
            nonce = (self._base_nonce ^ index).to_bytes(NONCE_BYTES)
            try:
                self._decrypt_into(
                    nonce, piece, None, target[start : start + len(piece) - TAG_BYTES]
                )
            except InvalidTag:
                raise Tampered(f"chunk {index} is not what was sealed", chunk=index) from None
        return plain


def bad_chunks(
    suite: str,
    data_key: bytes,
    context: bytes,
    read: Callable[[int, int], bytes],
    sealed_bytes: int,
    complete: bool,
) -> list[int]:
    """Every chunk that is not genuine, in order, a missing last one too; arguments as of Reader.

    After a chunk that was dropped all others stand in the wrong place, and are named as well.
    Raises Tampered when the prologue is not genuine: then nothing is.
    """
    reader = Reader(suite, data_key, context, read, sealed_bytes, complete=False)
    found: list[int] = []
    first = 0
    while first < reader.chunks:
        end = min(first + _PART_CHUNKS, reader.chunks)
        try:
            reader.open_chunks(first, end)
            first = end
        except Tampered as error:
            if error.chunk is None:
                raise
            found.append(error.chunk)
            first = error.chunk + 1
    if complete and (sealed_bytes - PROLOGUE) % SEALED == 0:
        found.append(reader.chunks)
    return found
