"""Bodies: the same bytes as the stock library's, and any place of them read alone."""

from __future__ import annotations

import secrets

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from hypothesis import example, given
from hypothesis import strategies as st

from controller.errors import Tampered, VaultError
from controller.vault.body import CHUNK, PROLOGUE, SEALED, Reader, Sealer
from controller.vault.suites import SUITES

KEY = bytes(range(32))
SALT = bytes(range(24))
CONTEXT = b"a header"
AUDIO = secrets.token_bytes(3 * CHUNK + 777)
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, len(AUDIO)]


def sealed(plain: bytes, suite: str = "cobblestone-256", *, complete: bool = True) -> bytes:
    sealer = Sealer(suite, KEY, CONTEXT, SALT)
    whole, rest = divmod(len(plain), CHUNK)
    body = bytearray(sealer.prologue)
    for index in range(whole):
        body += sealer.seal(index, plain[index * CHUNK : (index + 1) * CHUNK])
    if complete:
        body += sealer.seal(whole, plain[len(plain) - rest :], last=True)
    return bytes(body)


def reader(body: bytes, suite: str = "cobblestone-256", *, complete: bool = True) -> Reader:
    return Reader(suite, KEY, CONTEXT, lambda at, n: body[at : at + n], len(body), complete)


@pytest.mark.parametrize("size", SIZES)
def test_the_stock_decryptor_opens_ours(size: int) -> None:
    stock = Cobblestone256Decryptor(KEY, CONTEXT)
    assert stock.update(sealed(AUDIO[:size])) + stock.finalize() == AUDIO[:size]


@pytest.mark.parametrize("size", SIZES)
def test_ours_opens_what_the_stock_encryptor_sealed(size: int) -> None:
    stock = Cobblestone256Encryptor(KEY, CONTEXT)
    body = stock.update(AUDIO[:size]) + stock.finalize()
    opened = reader(body)
    assert opened.plain_bytes == size
    assert opened.read(0, size) == AUDIO[:size]


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("suite", SUITES)
def test_many_at_once_are_the_same_as_one_by_one_and_again(
    suite: str, kind: type[bytes | bytearray]
) -> None:
    sealer = Sealer(suite, KEY, CONTEXT, SALT)
    out, audio = bytearray(3 * SEALED + 5), kind(AUDIO)
    assert sealer.seal_into(0, audio[:0], out) == 0
    assert sealer.seal_into(1, memoryview(audio)[: 2 * CHUNK], out) == 2 * SEALED
    assert bytes(audio) == AUDIO
    assert not any(out[2 * SEALED :])
    again = sealer.seal(1, AUDIO[:CHUNK]) + sealer.seal(2, AUDIO[CHUNK : 2 * CHUNK])
    assert bytes(out[: 2 * SEALED]) == again
    assert Sealer(suite, KEY, CONTEXT, SALT).seal(1, AUDIO[:CHUNK]) == again[:SEALED]


@pytest.mark.parametrize("suite", SUITES)
def test_suites_never_open_each_other(suite: str) -> None:
    body = sealed(AUDIO, suite)
    for other in SUITES:
        if other == suite:
            assert reader(body, other).read(0, len(AUDIO)) == AUDIO
        else:
            with pytest.raises(Tampered):
                reader(body, other)


@pytest.mark.parametrize("suite", SUITES)
def test_what_was_salvaged_reads_to_its_last_whole_chunk(suite: str) -> None:
    body = sealed(AUDIO, suite, complete=False)
    opened = reader(body, suite, complete=False)
    assert opened.plain_bytes == 3 * CHUNK
    assert b"".join(opened.parts(5, 2 * CHUNK)) == AUDIO[5 : 3 * CHUNK]
    with pytest.raises(Tampered, match="chunk 3") as refused:
        reader(body, suite, complete=True)
    assert refused.value.chunk == 3


def test_a_chunk_of_a_wrong_size_is_not_sealed() -> None:
    sealer = Sealer("cobblestone-256", KEY, CONTEXT, SALT)
    for size, last in ((CHUNK - 1, False), (CHUNK + 1, False), (CHUNK, True), (0, False)):
        with pytest.raises(VaultError):
            sealer.seal(0, bytes(size), last)
    for first in (-1, 1 << 38):
        with pytest.raises(VaultError):
            sealer.seal(first, bytes(CHUNK))
        with pytest.raises(VaultError):
            sealer.seal_into(first, bytes(CHUNK), bytearray(SEALED))
    with pytest.raises(VaultError):
        sealer.seal_into(0, bytes(CHUNK + 1), bytearray(2 * SEALED))
    with pytest.raises(VaultError):
        sealer.seal_into(0, bytes(CHUNK), bytearray(SEALED - 1))


@pytest.mark.parametrize("suite", ["", "aes", "COBBLESTONE-256"])
def test_an_unknown_suite_is_refused(suite: str) -> None:
    with pytest.raises(VaultError, match="no cipher suite"):
        Sealer(suite, KEY, CONTEXT, SALT)


BODY = sealed(AUDIO)


@given(st.integers(0, len(AUDIO) + 9), st.integers(0, len(AUDIO) + 9))
@example(CHUNK - 1, 2)
@example(len(AUDIO), 1)
def test_any_place_reads_like_a_slice_and_touches_only_its_chunks(offset: int, size: int) -> None:
    touched: list[tuple[int, int]] = []

    def read(at: int, count: int) -> bytes:
        touched.append((at, count))
        return BODY[at : at + count]

    opened = Reader("cobblestone-256", KEY, CONTEXT, read, len(BODY), True)
    touched.clear()
    assert opened.read(offset, size) == AUDIO[offset : offset + size]
    for at, count in touched:
        assert at >= PROLOGUE + offset // CHUNK * SEALED
        assert count <= (size // CHUNK + 2) * SEALED
