"""pbx/ami_message.py: bytes to messages, whatever the split and whatever the bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.errors import ProtocolViolation
from controller.pbx.ami_message import MESSAGE_MAX, Framer, parse

GREETING = b"Asterisk Call Manager/11.0.0\r\n"

names = st.sampled_from(["Event", "Response", "ActionID", "ChanVariable", "CallerIDNum"])
# All that a value may hold on the wire: anything but CR LF.
values = st.binary(max_size=40).filter(lambda b: b"\r\n" not in b)
messages = st.lists(
    st.tuples(names, values).map(lambda p: p[0].encode() + b": " + p[1]), min_size=1, max_size=6
).map(lambda lines: b"\r\n".join(lines))
junk = st.sampled_from([b"\r\n", b"\r\n\r\n", b"\r", b"\n"])
streams = st.lists(st.one_of(messages, junk), max_size=8).map(
    lambda parts: GREETING + b"".join(p + b"\r\n\r\n" for p in parts)
)


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({min(n, len(stream)) for n in at} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


def feed(chunks: list[bytes]) -> tuple[list[bytes], bool]:
    """The messages, and whether the stream was refused."""
    framer, out = Framer(), list[bytes]()
    try:
        for chunk in chunks:
            for raw in framer.feed(chunk):
                out.append(raw)
    except ProtocolViolation:
        return out, True
    return out, False


@given(stream=streams, at=st.lists(st.integers(0, 400), max_size=12))
def test_any_split_gives_the_same_messages(stream: bytes, at: list[int]) -> None:
    assert feed(cut(stream, at)) == feed([stream])
    assert feed([stream[n : n + 1] for n in range(len(stream))]) == feed([stream])


@given(stream=st.binary(max_size=200), at=st.lists(st.integers(0, 200), max_size=6))
@example(stream=b"Asterisk Call Manager/1\r", at=[])
@example(stream=b"Asterisk\r\n\r\n", at=[9])
def test_any_split_of_anything(stream: bytes, at: list[int]) -> None:
    assert feed(cut(stream, at)) == feed([stream])


@pytest.mark.parametrize("over", [-1, 0, 1, 4])
@pytest.mark.parametrize("step", [1000, 65_536, 1 << 20])
def test_the_size_cap_does_not_depend_on_the_split(over: int, step: int) -> None:
    message = b"Event: X\r\nV: "
    message += b"9" * (MESSAGE_MAX + over - len(message))
    stream = GREETING + message + b"\r\n\r\n"
    chunks = [stream[n : n + step] for n in range(0, len(stream), step)]
    assert feed(chunks) == (([], True) if over > 0 else ([message], False))


@pytest.mark.parametrize("early", [1, 2, 3])
def test_the_longest_message_may_come_without_the_end_of_its_blank_line(early: int) -> None:
    message = b"V: ".ljust(MESSAGE_MAX, b"9")
    stream = GREETING + message + b"\r\n\r\n"
    assert feed([stream[:-early], stream[-early:]]) == ([message], False)


def test_an_endless_message_is_refused_before_it_ends() -> None:
    framer = Framer()
    list(framer.feed(GREETING))
    with pytest.raises(ProtocolViolation):
        for _ in range(MESSAGE_MAX // 1000 + 2):
            list(framer.feed(b"9" * 1000))


@pytest.mark.parametrize("greeting", [b"SSH-2.0\r\n", b"HTTP/1.1 200", b"\r\n", b"A" * 500])
def test_another_service_is_refused(greeting: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        list(Framer().feed(greeting))


@given(raw=st.binary(max_size=300))
def test_parse_takes_anything(raw: bytes) -> None:
    message = parse(raw)
    assert message.kind == next(iter(message.headers))


@given(value=values)
def test_a_value_never_moves_a_boundary(value: bytes) -> None:
    raw = b"Event: X\r\nCallerIDNum: " + value + b"\r\nUniqueid: 1"
    assert parse(raw).headers == {
        "Event": "X",
        "CallerIDNum": value.decode("utf-8", "replace"),
        "Uniqueid": "1",
    }


def test_the_first_of_repeated_headers_counts() -> None:
    message = parse(b"Event: A\r\nV: 1\r\nEvent: B\r\nV: 2\r\nV: 1")
    assert (message.kind, message.headers["Event"]) == ("Event", "A")
    assert message.every("V") == ["1", "2", "1"]
    assert message["event"] == "A"  # as a panoramisk Message
