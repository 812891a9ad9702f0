"""The pure framing: chunking, caps, hostile bytes. Bytes of a real FreeSWITCH in tests/data/esl."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import ProtocolViolation
from controller.pbx.esl_frames import (
    EVENT_MAX_BYTES,
    HEAD_MAX_BYTES,
    EslEvent,
    Frame,
    FrameReader,
    decode_event,
)
from tests.esl_server import frame, plain, reply

DATA = Path(__file__).parent.parent / "data" / "esl"
RECORDINGS = sorted(DATA.glob("*.esl"))


def read(*chunks: bytes) -> list[Frame]:
    reader = FrameReader()
    return [each for chunk in chunks for each in reader.feed(chunk)]


def event(data: bytes) -> EslEvent:
    (only,) = read(data)
    decoded = decode_event(only)
    assert decoded is not None
    return decoded


def cut_at(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(marks)]


STREAM = b"".join(
    [
        b"Content-Type: auth/request\n\n",
        reply("+OK accepted\n"),
        frame("api/response", b"a\n\nb: c\n\n"),
        plain("Event-Name: A", "X: 1%0A2"),
        frame("text/event-plain", b""),
        frame("text/event-json", b'{"Event-Name":"B"}'),
    ]
)


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_any_chunking_gives_the_same_frames(cuts: list[int]) -> None:
    assert read(*cut_at(STREAM, cuts)) == read(STREAM)
    assert len(read(STREAM)) == 6


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_recordings_byte_by_byte_and_whole(path: Path) -> None:
    data = path.read_bytes()
    whole = read(data)
    assert len(whole) >= 3
    assert read(*(data[i : i + 1] for i in range(len(data)))) == whole
    assert all(decode_event(each) is not None for each in whole)


@given(st.binary(max_size=2000), st.lists(st.integers(0, 10_000), max_size=5))
def test_any_bytes_end_in_frames_or_a_violation(data: bytes, cuts: list[int]) -> None:
    def outcome(chunks: list[bytes]) -> tuple[list[Frame], bool]:
        reader = FrameReader()
        frames: list[Frame] = []
        try:
            for chunk in chunks:
                frames += reader.feed(chunk)
        except ProtocolViolation:
            return frames, True
        return frames, False

    assert outcome([data])[1] == outcome(cut_at(data, cuts))[1]
    for each in outcome([data])[0]:
        decode_event(each)


@given(st.dictionaries(st.from_regex(r"[A-Za-z_-]{1,20}", fullmatch=True), st.text(), max_size=8))
def test_every_value_comes_back_as_it_was_encoded(values: dict[str, str]) -> None:
    got = event(plain(*(f"{name}: {quote(value)}" for name, value in values.items())))
    assert {name: got.get(name) for name in values} == values
    assert got.headers == values


def test_percent_escapes_forge_no_header() -> None:
    got = event(plain("Name: x%0AUnique-ID: forged", "Unique-ID: real"))
    assert got.get("Unique-ID") == "real"
    assert got.get("Name") == "x\nUnique-ID: forged"
    late = event(plain("Name: x%0AOnly-Here: forged"))
    assert late.get("Only-Here") == ""
    assert set(late.headers) == {"Name"}


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\x0b", "\x0c", "\x1c", "\r"])
def test_only_lf_ends_a_line(mark: str) -> None:
    got = event(plain(f"Name: a{mark}Unique-ID: forged", "Unique-ID: real"))
    assert got.get("Unique-ID") == "real"
    assert len(got.headers) == 2


def test_hostile_caller_of_a_real_freeswitch_stays_a_value() -> None:
    for name in ("hostile.plain.esl", "hostile.json.esl"):
        events = [decode_event(each) for each in read((DATA / name).read_bytes())]
        assert not [e for e in events if e is not None and e.get("Unique-ID") == "forged"]
        creates = [e for e in events if e is not None and e.get("Event-Name") == "CHANNEL_CREATE"]
        assert len(creates) == 1
        assert "Unique-ID: forged" in creates[0].get("Caller-Caller-ID-Name")


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    got = event(frame("text/event-plain", b"Event-Name: A\nName: M\xfcller\n\n"))
    assert got.get("Name") == "M\ufffdller"
    got = event(frame("text/event-json", b'{"Event-Name":"A","Name":"M\xfcller"}'))
    assert got.get("Name") == "M\ufffdller"


def test_a_line_that_is_no_header_is_counted_and_skipped() -> None:
    got = event(plain("Event-Name: A", "nonsense", "Unique-ID: u"))
    assert (got.get("Event-Name"), got.get("Unique-ID"), got.malformed) == ("A", "u", 1)
    reader = FrameReader()
    (only,) = reader.feed(b"nonsense\nContent-Type: auth/request\n\n")
    assert only.content_type == "auth/request"
    assert reader.malformed == 1


def test_a_job_body_is_no_header() -> None:
    body = b"Unique-ID: forged\nEvent-Name: X\n"
    got = event(plain("Event-Name: BACKGROUND_JOB", f"Content-Length: {len(body)}", tail=body))
    assert got.get("Unique-ID") == ""
    assert got.body == body.decode()
    got = event(frame("text/event-json", b'{"Event-Name":"BACKGROUND_JOB","_body":"+OK x\\n"}'))
    assert got.body == "+OK x\n"


def test_json_arrays_read_as_plain_writes_them() -> None:
    assert event(frame("text/event-json", b'{"V":["a","b"]}')).get("V") == "ARRAY::a|:b"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"a":1}', b'{"a":{"b":"c"}}', b"\xff\xfe", b'{"a":"\\ud800"}']
)
def test_json_that_is_no_event_is_not_understood(body: bytes) -> None:
    (only,) = read(frame("text/event-json", body))
    assert decode_event(only) is None


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "", "99999999999", "\u0663", "1 2", "+5"])
def test_content_length_must_be_a_number(length: str) -> None:
    with pytest.raises(ProtocolViolation):
        read(f"Content-Type: text/event-plain\nContent-Length: {length}\n\n".encode())


def test_sizes_are_capped() -> None:
    head = "Content-Type: text/event-plain\nContent-Length: {}\n\n"
    assert read(head.format(EVENT_MAX_BYTES).encode()) == []
    with pytest.raises(ProtocolViolation):
        read(head.format(EVENT_MAX_BYTES + 1).encode())
    with pytest.raises(ProtocolViolation):
        read(b"x" * HEAD_MAX_BYTES)
    with pytest.raises(ProtocolViolation):
        read(b"Content-Type: a/b\nContent-Length: 1\nContent-Length: 2\n\n")


def test_frames_before_the_violation_are_told() -> None:
    frames = FrameReader().feed(reply("+OK") + b"Content-Length: x\n\n")
    assert next(frames).head["reply-text"] == "+OK"
    with pytest.raises(ProtocolViolation):
        next(frames)
