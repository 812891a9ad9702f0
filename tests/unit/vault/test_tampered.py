"""Whatever is done to a sealed recording is refused, and the chunk is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.errors import KeyDestroyed, PbxctlError, Tampered
from controller.vault import header as h
from controller.vault import key_slots, xwing
from controller.vault.body import CHUNK, PROLOGUE, SEALED, Reader, Sealer, bad_chunks
from controller.vault.key_slots import Entry, KeySlots, WritableKeySlots
from controller.vault.keys import file as key_file
from controller.vault.keys.file import FileProvider
from controller.vault.keys.keyring import Keyring, make

SUITES = ("cobblestone-256", "sm4-gcm")
CHUNKS = 4
AUDIO = hashlib.shake_128(b"tampered").digest((CHUNKS - 1) * CHUNK + 321)
DATA_KEY = bytes(range(32))


def header(**change: object) -> h.Header:
    return msgspec.structs.replace(
        h.Header("acme", "pbx1", "a" * 32, 1_700_000_000_000_000), **change
    )


def seal(of: h.Header, *, key: bytes = DATA_KEY, salt: bytes = bytes(24)) -> bytes:
    sealer = Sealer(of.suite, key, of.encode(), salt)
    whole = bytearray((CHUNKS - 1) * SEALED)
    sealer.seal_into(0, AUDIO[: (CHUNKS - 1) * CHUNK], whole)
    last = sealer.seal(CHUNKS - 1, AUDIO[(CHUNKS - 1) * CHUNK :], last=True)
    return sealer.prologue + bytes(whole) + last


def read_all(body: bytes, of: h.Header, *, key: bytes = DATA_KEY, complete: bool = True) -> bytes:
    reader = Reader(
        of.suite, key, of.encode(), lambda at, n: body[at : at + n], len(body), complete
    )
    return b"".join(reader.parts(part_bytes=CHUNK))


def chunks(body: bytes) -> list[bytes]:
    return [body[at : at + SEALED] for at in range(PROLOGUE, len(body), SEALED)]


def joined(prologue_of: bytes, pieces: list[bytes]) -> bytes:
    return prologue_of[:PROLOGUE] + b"".join(pieces)


def refused_at(body: bytes, of: h.Header, *, complete: bool = True) -> int | None:
    with pytest.raises(Tampered) as refused:
        read_all(body, of, complete=complete)
    chunk = refused.value.chunk
    assert chunk is None or f"chunk {chunk}" in refused.value.message
    assert refused.value.exit_code == 4
    return chunk


def all_bad(body: bytes, of: h.Header, *, complete: bool = True) -> list[int]:
    def read(at: int, size: int) -> bytes:
        return body[at : at + size]

    return bad_chunks(of.suite, DATA_KEY, of.encode(), read, len(body), complete)


BODIES = {suite: seal(header(suite=suite)) for suite in SUITES}
SIZE = len(BODIES[SUITES[0]])


@pytest.mark.parametrize("suite", SUITES)
def test_untouched_it_opens(suite: str) -> None:
    assert read_all(BODIES[suite], header(suite=suite)) == AUDIO


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SUITES), st.integers(0, SIZE - 1), st.integers(1, 255))
def test_a_flip_anywhere_names_its_chunk(suite: str, at: int, flip: int) -> None:
    body = bytearray(BODIES[suite])
    body[at] ^= flip
    expected = None if at < PROLOGUE else (at - PROLOGUE) // SEALED
    assert refused_at(bytes(body), header(suite=suite)) == expected


@pytest.mark.parametrize("suite", SUITES)
def test_checking_finds_every_bad_chunk(suite: str) -> None:
    mine = header(suite=suite)
    assert all_bad(BODIES[suite], mine) == []
    body = bytearray(BODIES[suite])
    for chunk in (0, 2, 3):
        body[PROLOGUE + chunk * SEALED] ^= 1
    assert all_bad(bytes(body), mine) == [0, 2, 3]
    assert all_bad(BODIES[suite][: PROLOGUE + 3 * SEALED], mine) == [3]
    assert all_bad(BODIES[suite][: PROLOGUE + 3 * SEALED], mine, complete=False) == []
    body[0] ^= 1
    with pytest.raises(Tampered):
        all_bad(bytes(body), mine)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SUITES), st.integers(0, SIZE - 1))
def test_a_cut_anywhere_is_refused(suite: str, size: int) -> None:
    chunk = refused_at(BODIES[suite][:size], header(suite=suite))
    if size >= PROLOGUE:
        assert chunk == (size - PROLOGUE) // SEALED


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SUITES), st.binary(min_size=1, max_size=40))
def test_more_bytes_behind_are_refused(suite: str, more: bytes) -> None:
    assert refused_at(BODIES[suite] + more, header(suite=suite)) == CHUNKS - 1


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("dropped", range(CHUNKS))
def test_a_chunk_that_is_missing(suite: str, dropped: int) -> None:
    pieces = chunks(BODIES[suite])
    del pieces[dropped]
    # The last chunk is opened first: it no longer stands where it was sealed.
    assert refused_at(joined(BODIES[suite], pieces), header(suite=suite)) in (
        dropped,
        CHUNKS - 2,
        3,
    )


@pytest.mark.parametrize("suite", SUITES)
def test_chunks_that_were_exchanged(suite: str) -> None:
    pieces = chunks(BODIES[suite])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        swapped = list(pieces)
        swapped[a], swapped[b] = pieces[b], pieces[a]
        assert refused_at(joined(BODIES[suite], swapped), header(suite=suite)) == a


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("place", range(CHUNKS))
def test_a_chunk_of_another_recording(suite: str, place: int) -> None:
    """With another id; with another salt; even one that was sealed with the same data key."""
    mine = header(suite=suite)
    for other in (
        seal(header(suite=suite, recording="b" * 32)),
        seal(mine, salt=b"x" * 24),
        seal(mine, key=bytes(32)),
    ):
        pieces = chunks(BODIES[suite])
        pieces[place] = chunks(other)[place]
        assert refused_at(joined(BODIES[suite], pieces), mine) == place
        assert refused_at(joined(other, chunks(BODIES[suite])), mine) in (None, CHUNKS - 1)


@pytest.mark.parametrize(
    "change",
    [{"tenant": "other"}, {"node": "pbx2"}, {"recording": "b" * 32}, {"started_us": 5},
     {"rate_hz": 16000}, {"channels": 1}],
)  # fmt: skip
@pytest.mark.parametrize("suite", SUITES)
def test_a_body_under_another_header(suite: str, change: dict[str, object]) -> None:
    assert refused_at(BODIES[suite], header(suite=suite, **change)) is None


def test_a_partial_recording_is_not_taken_for_a_whole_one_nor_altered() -> None:
    mine = header()
    whole_chunks = BODIES[mine.suite][: PROLOGUE + 3 * SEALED]
    assert read_all(whole_chunks, mine, complete=False) == AUDIO[: 3 * CHUNK]
    assert refused_at(whole_chunks, mine) == 3
    for chunk in range(3):
        altered = bytearray(whole_chunks)
        altered[PROLOGUE + chunk * SEALED + 100] ^= 1
        assert refused_at(bytes(altered), mine, complete=False) == chunk


def test_a_store_that_gives_fewer_bytes_than_it_said() -> None:
    mine, body = header(), BODIES["cobblestone-256"]
    short = body[: PROLOGUE + SEALED + 7]
    with pytest.raises(Tampered, match="chunk 3") as refused:
        Reader(
            mine.suite, DATA_KEY, mine.encode(), lambda at, n: short[at : at + n], len(body), True
        )
    assert refused.value.chunk == 3
    reader = Reader(
        mine.suite,
        DATA_KEY,
        mine.encode(),
        lambda at, n: short[at : at + n],
        SIZE - 321 - 16,
        False,
    )
    assert reader.read(0, CHUNK) == AUDIO[:CHUNK]
    with pytest.raises(Tampered, match="cut off in chunk 1"):
        reader.read(0, 2 * CHUNK)


def test_the_way_from_an_envelope_to_the_audio_with_one_thing_wrong_at_a_time(
    tmp_path: Path,
) -> None:
    """Wrong tenant, another recording's slot, destroyed pair, destroyed KEK, restored old slot."""
    key_file.create(tmp_path / "key", "correct horse battery", log_n=14)
    provider = FileProvider(tmp_path / "key", "correct horse battery")
    make(tmp_path / "keyring")
    key_slots.make(tmp_path / "slots")
    keyring = Keyring(tmp_path / "keyring", provider, writable=True)
    slots = WritableKeySlots(tmp_path / "slots", keyring)
    mine, theirs = header(), header(tenant="other", recording="b" * 32)
    pair = keyring.new_pair(1)
    envelope = h.seal_envelope(pair.key, pair.id, mine, DATA_KEY, b"{}")
    data_key, _ = h.open_envelope(keyring.private_key(h.envelope_key_id(envelope)), mine, envelope)
    number, other_number = slots.put(
        [
            Entry(mine.tenant, "2027-01", mine.recording, data_key),
            Entry(theirs.tenant, "2027-01", theirs.recording, bytes(32)),
        ],
        2,
    )
    body = BODIES[mine.suite]
    assert read_all(body, mine, key=slots.data_key(number, "acme", mine.recording)) == AUDIO

    with pytest.raises(Tampered):
        h.open_envelope(keyring.private_key(pair.id), theirs, envelope)
    with pytest.raises(Tampered):
        read_all(body, mine, key=slots.data_key(other_number, "other", theirs.recording))
    wrong: tuple[tuple[int, str, str, type[PbxctlError]], ...] = (
        (number, "other", mine.recording, Tampered),
        (other_number, "acme", mine.recording, KeyDestroyed),
    )
    for slot, tenant, recording, error in wrong:
        with pytest.raises(error):
            slots.data_key(slot, tenant, recording)

    stolen = (tmp_path / "slots").read_bytes()
    list(slots.rotate(3))
    assert slots.data_key(number, "acme", mine.recording) == DATA_KEY
    (tmp_path / "stolen").write_bytes(stolen)
    old = KeySlots(tmp_path / "stolen", keyring)
    with pytest.raises(KeyDestroyed):
        old.data_key(number, "acme", mine.recording)
    old.close()
    keyring.new_pair(4)
    keyring.destroy_pair(pair.id)
    with pytest.raises(KeyDestroyed):
        keyring.private_key(h.envelope_key_id(envelope))
    slots.close()
    keyring.close()


@pytest.mark.parametrize("suite", SUITES)
def test_a_key_of_another_pair_opens_nothing(suite: str) -> None:
    mine = header(suite=suite)
    public = xwing.public_key(bytes(32))
    envelope = h.seal_envelope(public, xwing.key_id(public), mine, DATA_KEY, b"{}")
    with pytest.raises(Tampered):
        h.open_envelope(bytes([1]) * 32, mine, envelope)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(SUITES),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, len(AUDIO) + 5), st.integers(0, 2 * CHUNK + 5)), max_size=5),
)
def test_random_access_reads_like_slices(
    suite: str, complete: bool, places: list[tuple[int, int]]
) -> None:
    body, audio = BODIES[suite], AUDIO
    if not complete:
        body, audio = body[: PROLOGUE + 3 * SEALED], AUDIO[: 3 * CHUNK]
    reader = Reader(
        suite, DATA_KEY, header(suite=suite).encode(), lambda at, n: body[at : at + n],
        len(body), complete,
    )  # fmt: skip
    assert reader.plain_bytes == len(audio)
    for offset, size in places:
        assert reader.read(offset, size) == audio[offset : offset + size]
    for offset, _ in places:
        assert b"".join(reader.parts(offset, 2 * CHUNK)) == audio[offset:]
