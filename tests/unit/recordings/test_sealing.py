"""A chunk is sealed once under its nonce, whatever happens to its file meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from controller.agent.recorder import TICK_S
from controller.agent.sealing import READ_CHUNKS, Gatherer, Recording
from controller.agent.tmpfs import Ended
from controller.vault.body import CHUNK, SEALED
from controller.vault.wire import Begin, Chunks, Outcome
from tests.unit.recordings.made import new


def test_a_last_chunk_that_shrank_is_not_sealed(tmp_path: Path) -> None:
    files, memo = new(tmp_path)
    files.raw.write_bytes(b"x" * 100)
    ended = msgspec.structs.replace(memo, ended=Ended(100, Outcome.COMPLETE, "", 1))
    recording = Recording(files, ended)
    os.truncate(files.raw, 10)
    frames, more = Gatherer(1 << 20).gather([recording], begin_all=True)
    assert [type(frame) for frame in frames] == [Begin]
    assert recording.cut
    assert not recording.finished
    assert not more


class Clock:
    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("controller.agent.sealing.time", clock)
    return clock


def handed_out(recording: Recording) -> list[tuple[int, int]]:
    """(first, chunks) of what a pass takes."""
    frames, _ = Gatherer(1 << 20).gather([recording], begin_all=False)
    return [(f.first, len(f.data) // SEALED) for f in frames if isinstance(f, Chunks)]


@pytest.mark.parametrize(
    ("piece", "every"),
    [(3200, 1), (1024, 1), (32768, 10)],
    ids=["in real time", "slower", "as Asterisk flushes"],
)
def test_each_chunk_is_taken_in_the_tick_in_which_it_is_full(
    tmp_path: Path, clock: Clock, piece: int, every: int
) -> None:
    files, memo = new(tmp_path)
    recording = Recording(files, memo)
    looks, full = 0, 0
    for tick in range(300):
        clock.now_s += TICK_S
        if tick % every == 0:
            with files.raw.open("ab") as file:
                file.write(bytes(piece))
        looks += recording.due_s <= clock.now_s
        taken = handed_out(recording)
        now_full = (tick // every + 1) * piece // CHUNK
        assert taken == ([(full, now_full - full)] if now_full > full else [])
        full = now_full
    if piece == 3200:
        assert looks <= 150  # of 300


def test_what_was_not_safe_is_taken_again_at_once(tmp_path: Path, clock: Clock) -> None:
    files, memo = new(tmp_path)
    recording = Recording(files, memo)
    files.raw.write_bytes(bytes(2 * CHUNK + 100))
    assert handed_out(recording) == [(0, 2)]
    assert handed_out(recording) == []
    recording.acked = 1
    recording.roll_back()
    assert handed_out(recording) == [(1, 1)]


def test_more_than_a_pass_reads_is_taken_in_the_next(tmp_path: Path, clock: Clock) -> None:
    files, memo = new(tmp_path)
    recording = Recording(files, memo)
    files.raw.write_bytes(bytes((READ_CHUNKS + 2) * CHUNK))
    assert handed_out(recording) == [(0, READ_CHUNKS)]
    assert handed_out(recording) == [(READ_CHUNKS, 2)]
