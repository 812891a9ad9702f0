"""Headers have one encoding; envelopes open for one header and one key."""

from __future__ import annotations

import contextlib
import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import Tampered, VaultError
from controller.vault import header as h
from controller.vault import xwing

HEADER = h.Header("acme", "pbx1", "0123456789abcdef" * 2, 1_700_000_000_000_000)
PRIVATE = bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26")
PUBLIC = xwing.public_key(PRIVATE)
KEY_ID = xwing.key_id(PUBLIC)
DATA_KEY = bytes(range(32))
PARTICULARS = h.Particulars("c1", "+4930123", "+4930456", "queue sales", 90)


def test_the_key_pair_is_that_of_the_x_wing_draft() -> None:
    """draft-connolly-cfrg-xwing-kem, appendix C, first vector."""
    assert PUBLIC.hex().startswith(
        "e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5"
    )
    assert len(PUBLIC) == xwing.PUBLIC_KEY_BYTES
    assert hashlib.sha256(PUBLIC).hexdigest()[:16] == KEY_ID


def test_a_header_comes_back_and_has_one_encoding() -> None:
    assert h.decode(HEADER.encode()) == HEADER
    fields = msgspec.msgpack.decode(HEADER.encode())
    wide = bytearray(b"\xdc\x00\x08") + HEADER.encode()[1:]  # an array16 where a fixarray does
    assert msgspec.msgpack.decode(bytes(wide)) == fields
    with pytest.raises(VaultError, match="one encoding"):
        h.decode(bytes(wide))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tenant": ""},
        {"tenant": "a/b"},
        {"tenant": "a" * 65},
        {"node": "../x"},
        {"recording": "0" * 31},
        {"recording": "A" * 32},
        {"recording": "0" * 32 + "\n"},
        {"started_us": -1},
        {"suite": "none"},
        {"rate_hz": 0},
        {"channels": 3},
    ],
)
def test_impossible_values_are_no_header(wrong: dict[str, object]) -> None:
    with pytest.raises(VaultError):
        msgspec.structs.replace(HEADER, **wrong)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    with pytest.raises(VaultError):
        h.decode(data)


@given(st.integers(0, 200), st.integers(1, 255))
def test_an_altered_header_is_refused_or_another(at: int, flip: int) -> None:
    data = bytearray(HEADER.encode())
    data[at % len(data)] ^= flip
    with contextlib.suppress(VaultError):
        assert h.decode(bytes(data)) != HEADER


def test_an_envelope_opens_with_its_key_and_header() -> None:
    envelope = h.seal_envelope(PUBLIC, KEY_ID, HEADER, DATA_KEY, PARTICULARS.encode())
    assert h.envelope_key_id(envelope) == KEY_ID
    data_key, particulars = h.open_envelope(PRIVATE, HEADER, envelope)
    assert data_key == DATA_KEY
    assert h.decode_particulars(particulars) == PARTICULARS


def test_its_size_tells_nothing() -> None:
    sizes = {
        len(h.seal_envelope(PUBLIC, KEY_ID, HEADER, DATA_KEY, bytes(n))) for n in (0, 1, 511, 512)
    }
    assert sizes == {h.ENVELOPE_BYTES}
    with pytest.raises(VaultError, match="fit"):
        h.seal_envelope(PUBLIC, KEY_ID, HEADER, DATA_KEY, bytes(513))


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"node": "pbx2"},
        {"recording": "f" * 32},
        {"started_us": 1},
        {"suite": "sm4-gcm"},
        {"rate_hz": 16000},
        {"channels": 1},
    ],
)
def test_an_envelope_never_opens_under_another_header(change: dict[str, object]) -> None:
    envelope = h.seal_envelope(PUBLIC, KEY_ID, HEADER, DATA_KEY, b"{}")
    with pytest.raises(Tampered):
        h.open_envelope(PRIVATE, msgspec.structs.replace(HEADER, **change), envelope)


def test_an_envelope_that_was_touched_anywhere_is_refused() -> None:
    envelope = h.seal_envelope(PUBLIC, KEY_ID, HEADER, DATA_KEY, b"{}")
    for at in [0, 1, 8, 9, 1128, 1129, *range(1200, len(envelope), 97), len(envelope) - 1]:
        altered = bytearray(envelope)
        altered[at] ^= 1
        with pytest.raises(VaultError):
            h.open_envelope(PRIVATE, HEADER, bytes(altered))
    for cut in (b"", envelope[:-1], envelope + b"\0"):
        with pytest.raises(VaultError):
            h.open_envelope(PRIVATE, HEADER, cut)
    with pytest.raises(Tampered):
        h.open_envelope(xwing.generate(), HEADER, envelope)


def test_the_key_that_is_named_must_be_the_key() -> None:
    with pytest.raises(VaultError, match="public key"):
        h.seal_envelope(PUBLIC, "0" * 16, HEADER, DATA_KEY, b"")
    with pytest.raises(VaultError):
        h.seal_envelope(PUBLIC[:-1], xwing.key_id(PUBLIC[:-1]), HEADER, DATA_KEY, b"")


def test_particulars_that_do_not_fit_say_so() -> None:
    with pytest.raises(VaultError, match="fit"):
        h.Particulars("c", "x" * 600, "", "r", 1).encode()
    for junk in (b"", b"[]", b'{"call": 1}'):
        with pytest.raises(VaultError):
            h.decode_particulars(junk)
