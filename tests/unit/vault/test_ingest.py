"""What agents bring: taken once, compared ever after, refused where it is not theirs to bring."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from obstore.store import LocalStore

from controller.errors import StoreUnreachable, UsageError
from controller.vault.bodies import Bodies
from controller.vault.ingest import FRAMES_MAX, Ingest, Limits
from controller.vault.intake import Intake
from controller.vault.store import Store
from controller.vault.wire import Ack, Begin, Chunks, End, Frame, Outcome, State
from tests.sealed import SEALED, Recording, plain

LIMITS = Limits(frozenset({"test"}), 64 * SEALED, 0)


@pytest.fixture
def bodies(tmp_path: Path) -> Bodies:
    (tmp_path / "store").mkdir()
    return Bodies(Store(LocalStore(tmp_path / "store"), "store", tmp_path / "store"))


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    return Intake(tmp_path / "intake")


@pytest.fixture
def ingest(bodies: Bodies, intake: Intake) -> Iterator[Ingest]:
    made = Ingest(bodies, intake, LIMITS)
    yield made
    made.close()


def one(ingest: Ingest, *frames: Frame, node: str = "n1") -> Ack:
    [ack] = ingest.take(node, list(frames))
    return ack


def test_a_whole_recording_is_there_as_it_was_sealed(ingest: Ingest, bodies: Bodies) -> None:
    made = Recording(plain(5.3))
    assert one(ingest, *made.frames()) == Ack(made.id, 6, State.ENDED)
    growing = bodies.growing(made.id)
    assert growing is not None
    head = bodies.finish(made.id, growing)
    bodies.drop_parts(made.id)
    read, size, complete = bodies.open_body(made.id)
    assert (read(0, size), size, complete) == (made.body, len(made.body), True)
    assert head.end == made.end()
    bodies.check_body(made.id, head)
    assert one(ingest, *made.frames()) == Ack(made.id, 6, State.ENDED)
    assert bodies.growing(made.id) is None, "said again it must not come back to life"


def test_it_can_be_read_while_it_grows(ingest: Ingest, bodies: Bodies) -> None:
    made = Recording(plain(9.5))
    one(ingest, made.begin(), made.some(0, 2))
    one(ingest, made.some(2, 5))
    read, size, complete = bodies.open_body(made.id)
    assert (size, complete) == (len(made.prologue) + 7 * SEALED, False)
    for offset, length in [(0, size), (3, 5), (56 + SEALED - 1, 2 * SEALED), (size - 1, 1)]:
        assert read(offset, length) == made.body[offset : offset + length]


def test_the_same_twice_is_harmless(ingest: Ingest, bodies: Bodies) -> None:
    made = Recording(plain(4.5))
    for frames in ([made.begin()], [made.some(0, 3)], [made.some(1, 3)], [made.some(0, 5)]):
        one(ingest, *frames)
        one(ingest, *frames)
    assert one(ingest, made.begin(), made.end()).state is State.ENDED
    assert one(ingest, made.end()).state is State.ENDED
    assert bodies.open_body(made.id)[0](0, 1 << 20) == made.body


def test_after_a_gap_the_answer_tells_where_to_go_on(ingest: Ingest) -> None:
    made = Recording(plain(6))
    assert one(ingest, made.some(0)) == Ack(made.id, 0, State.UNKNOWN)
    assert one(ingest, made.begin(), made.some(0, 2)).next == 2
    assert one(ingest, made.some(4, 2)) == Ack(made.id, 2, State.OPEN)
    assert one(ingest, made.end()) == Ack(made.id, 2, State.OPEN)
    assert one(ingest, made.some(2, 5), made.end()) == Ack(made.id, 7, State.ENDED)


@pytest.mark.parametrize("seed", range(12))
def test_any_order_any_cut_any_repetition_and_vaults_that_die(
    seed: int, bodies: Bodies, intake: Intake
) -> None:
    """An agent that knows nothing but the acks, and a vault that forgets all it held in memory."""
    rng = random.Random(seed)
    outcome = rng.choice(list(Outcome))
    made = Recording(plain(rng.uniform(0, 12)), outcome=outcome)
    ingest = Ingest(bodies, intake, LIMITS)
    held = 0
    for _ in range(200):
        if rng.random() < 0.3:
            ingest.close()
            ingest = Ingest(bodies, intake, LIMITS)
        first = rng.randint(max(0, held - 3), held)
        frames: list[Frame] = [made.begin()] if rng.random() < 0.3 or not held else []
        while first < len(made.chunks) and rng.random() < 0.8:
            count = rng.randint(1, 3)
            frames.append(made.some(first, count))
            first += count if rng.random() < 0.9 else 2
        if first >= len(made.chunks) or rng.random() < 0.1:
            frames.append(made.end())
        if not frames:
            continue
        ack = one(ingest, *frames)
        assert ack.state in (State.OPEN, State.ENDED, State.UNKNOWN), ack
        if ack.state is State.UNKNOWN:
            assert held == 0
            continue
        assert ack.next >= held
        held = ack.next
        if ack.state is State.ENDED:
            break
    else:
        pytest.fail("it never ended")
    read, size, complete = bodies.open_body(made.id)
    assert read(0, size) == made.body
    assert complete is (outcome is Outcome.COMPLETE)
    ingest.close()


def test_other_bytes_for_a_stored_chunk_are_refused(ingest: Ingest, bodies: Bodies) -> None:
    made = Recording(plain(3.5))
    one(ingest, made.begin(), made.some(0, 4))
    forged = bytearray(made.some(1, 2).data)
    forged[SEALED + 5] ^= 1
    ack = one(ingest, Chunks(made.id, 1, bytes(forged)))
    assert ack.state is State.REFUSED
    assert "chunk 2" in ack.reason
    other = Recording(plain(1))
    for begin in (
        Begin(made.id, made.header.encode(), made.envelope, other.prologue),
        Begin(
            made.id,
            replace_header(made, started_us=made.started_us + 1),
            made.envelope,
            made.prologue,
        ),
    ):
        assert one(ingest, begin).state is State.REFUSED
    assert bodies.open_body(made.id)[0](0, 1 << 20) == made.body


def replace_header(made: Recording, **values: object) -> bytes:
    return msgspec.structs.replace(made.header, **values).encode()


def test_a_node_writes_its_own_recordings_alone(ingest: Ingest, bodies: Bodies) -> None:
    made = Recording(plain(2.5))
    assert one(ingest, *made.frames(), node="n2").state is State.REFUSED
    with pytest.raises(FileNotFoundError):
        bodies.open_body(made.id)
    one(ingest, made.begin(), made.some(0, 2))
    for frame in (made.some(2), made.begin(), made.end()):
        assert one(ingest, frame, node="n2").state is State.REFUSED
    assert one(ingest, made.some(2), made.end()) == Ack(made.id, 3, State.ENDED)
    growing = bodies.growing(made.id)
    assert growing is not None
    bodies.finish(made.id, growing)
    bodies.drop_parts(made.id)
    assert one(ingest, *made.frames(), node="n2").state is State.REFUSED


HOSTILE = Recording(plain(2.5))
FOREIGN = Recording(plain(1), tenant="other")


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (FOREIGN.begin(), "tenant"),
        (Begin(HOSTILE.id, b"", HOSTILE.envelope, HOSTILE.prologue), "header"),
        (Begin(HOSTILE.id, b"\xc1" * 99, HOSTILE.envelope, HOSTILE.prologue), "header"),
        (Begin("0" * 32, HOSTILE.header.encode(), HOSTILE.envelope, HOSTILE.prologue), "another"),
        (Begin(HOSTILE.id, HOSTILE.header.encode(), b"", HOSTILE.prologue), "envelope"),
        (Begin(HOSTILE.id, HOSTILE.header.encode(), HOSTILE.envelope, b"short"), "prologue"),
    ],
)
def test_a_hostile_begin_is_refused_and_says_why(
    ingest: Ingest, bodies: Bodies, frame: Frame, why: str
) -> None:
    ack = one(ingest, frame, *HOSTILE.frames()[1:] if frame.recording == HOSTILE.id else [])
    assert ack.state is State.REFUSED
    assert why in ack.reason
    assert bodies.all_growing() == []


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (Chunks(HOSTILE.id, -1, HOSTILE.chunks[0]), "no chunks"),
        (Chunks(HOSTILE.id, 0, b"fifteen bytes.."), "no chunks"),
        (Chunks(HOSTILE.id, 2**62, HOSTILE.chunks[0]), "limit"),
        (Chunks(HOSTILE.id, 0, bytes(65 * SEALED)), "limit"),
        (Chunks(HOSTILE.id, 2, bytes(SEALED)), "bytes"),
        (Chunks(HOSTILE.id, 3, HOSTILE.chunks[2]), "after the last"),
        (End(HOSTILE.id, 2, 2 << 14, Outcome.PARTIAL), "stored"),
        (End(HOSTILE.id, -1, 0, Outcome.COMPLETE), "stored"),
        (End(HOSTILE.id, 3, 1, Outcome.COMPLETE), "audio"),
        (End(HOSTILE.id, 3, len(HOSTILE.plain), Outcome.COMPLETE, "", -5), "call"),
    ],
)
def test_hostile_frames_are_refused_and_say_why(
    ingest: Ingest, bodies: Bodies, frame: Frame, why: str
) -> None:
    one(ingest, HOSTILE.begin(), HOSTILE.some(0, 3))
    ack = one(ingest, frame)
    assert ack.state is State.REFUSED
    assert why in ack.reason
    assert one(ingest, HOSTILE.end()).state is State.ENDED, "what is good goes on"
    assert bodies.open_body(HOSTILE.id)[0](0, 1 << 20) == HOSTILE.body


def test_a_complete_one_needs_its_last_chunk(ingest: Ingest) -> None:
    made = Recording(plain(2.5))
    one(ingest, made.begin(), made.some(0, 2))
    ack = one(ingest, End(made.id, 2, 2 << 14, Outcome.COMPLETE))
    assert (ack.state, ack.reason) == (State.REFUSED, "complete, and its last chunk is missing")
    assert one(ingest, End(made.id, 2, 2 << 14, Outcome.PARTIAL)).state is State.ENDED


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 32, "0" * 33, "0" * 31 + "\n"])
def test_a_name_that_no_agent_sends_is_an_error(ingest: Ingest, name: str) -> None:
    with pytest.raises(UsageError, match="no recording's id"):
        ingest.take("n1", [Chunks(name, 0, b"")])


def test_too_many_frames_are_an_error(ingest: Ingest) -> None:
    with pytest.raises(UsageError, match="frames"):
        ingest.take("n1", [Chunks("0" * 32, 0, b"")] * (FRAMES_MAX + 1))


def test_chunks_after_it_was_given_up_are_refused_and_not_swallowed(
    ingest: Ingest, bodies: Bodies
) -> None:
    made = Recording(plain(4.5))
    one(ingest, made.begin(), made.some(0, 2))
    growing = bodies.growing(made.id)
    assert growing is not None
    bodies.put_end(made.id, End(made.id, 2, 2 << 14, Outcome.PARTIAL, "nothing heard for 72 h"))
    growing = bodies.growing(made.id)
    assert growing is not None
    bodies.finish(made.id, growing)
    bodies.drop_parts(made.id)
    again = Ingest(bodies, Intake(Path(ingest._intake._folder)), LIMITS)
    ack = one(again, made.some(2, 3))
    assert (ack.state, ack.reason) == (State.REFUSED, "it ended already: nothing heard for 72 h")
    again.close()


def test_without_room_nothing_is_taken(bodies: Bodies, intake: Intake) -> None:
    ingest = Ingest(bodies, intake, replace(LIMITS, free_min_bytes=1 << 60))
    made = Recording(plain(1))
    with pytest.raises(StoreUnreachable, match="MiB left"):
        ingest.take("n1", made.frames())
    ingest.close()
    assert bodies.all_growing() == []
