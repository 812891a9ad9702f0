"""Two mono files as one stereo stream: in step, freed, after a crash, at both rates."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest

from controller.agent.tmpfs import Files, found
from controller.config_recordings import RecordingsConfig
from controller.model import Kind
from controller.pbx.recorded_files import SIDES, Layout, mixmonitor_options
from controller.vault.body import CHUNK
from controller.vault.wire import Outcome
from tests.lab.until import eventually
from tests.unit.recordings.made import FakeVault, Node
from tests.unit.recordings.test_recorder import nothing_left, running

STDIO_BYTES = 32_768  # of one of Asterisk's files, main/file.c


def speech(samples: int, seed: int) -> array[int]:
    chance = random.Random(seed)
    return array("h", (chance.randrange(-9000, 9000) for _ in range(samples)))


def sides_of(files: Files, layout: Layout) -> list[Path]:
    return [files.raw.with_name(files.recording + name) for name in layout.names]


def as_written(samples: array[int], layout: Layout) -> bytes:
    """At the file's own rate: what lies between is not to be heard."""
    wide = array("h", bytes(2 * layout.step * len(samples)))
    wide[:: layout.step] = samples
    for between in range(1, layout.step):
        wide[between :: layout.step] = speech(len(samples), between)
    return wide.tobytes()


def stereo(left: array[int], right: array[int]) -> bytes:
    both = array("h", bytes(2 * (len(left) + len(right))))
    both[::2], both[1::2] = left, right
    return both.tobytes()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize("rate_hz", [8000, 16_000])
async def test_two_voices_become_one_recording(tmp_path: Path, rate_hz: int) -> None:
    vault, layout = FakeVault(), SIDES[rate_hz]
    left, right = speech(90_001, 11), speech(90_001, 12)
    async with running(Node(tmp_path, vault)) as node:
        files = node.record(layout)
        ways = list(zip(sides_of(files, layout), (left, right), strict=True))
        piece = 14_000 * layout.step
        for start in range(0, 90_001 * 2 * layout.step, piece):
            for path, voice in ways:
                append(path, as_written(voice, layout)[start : start + piece])
        files.end_in_order()
        await eventually(lambda: files.recording in vault.ends, 8, "its end")
        assert vault.plain(files.recording) == stereo(left, right)
        assert vault.ends[files.recording].outcome is Outcome.COMPLETE
        await eventually(lambda: nothing_left(node), 3, "nothing is left on the node")


async def test_no_side_is_ahead_of_the_other_while_the_call_is_on(tmp_path: Path) -> None:
    vault, layout = FakeVault(), SIDES[16_000]
    node = Node(tmp_path, vault)
    files = node.record(layout)
    ahead, behind = sides_of(files, layout)
    left, right = speech(CHUNK, 1), speech(CHUNK, 2)
    append(ahead, as_written(left, layout))
    append(behind, as_written(right, layout)[:STDIO_BYTES])
    async with running(node):
        await eventually(lambda: len(vault.bodies.get(files.recording, [])) == 2, 5, "2 chunks")
        append(behind, as_written(right, layout)[STDIO_BYTES:])
        await eventually(lambda: len(vault.bodies[files.recording]) == 4, 5, "4 chunks")
    assert vault.plain(files.recording) == stereo(left, right)


async def test_a_side_that_a_crash_cut_short_ends_in_silence(tmp_path: Path) -> None:
    """And an agent that is begun anew meanwhile seals the very same."""
    vault, layout = FakeVault(), SIDES[16_000]
    node = Node(tmp_path, vault)
    files = node.record(layout)
    left, right = speech(CHUNK, 1), speech(CHUNK // 2, 2)
    for path, voice in zip(sides_of(files, layout), (left, right), strict=True):
        append(path, as_written(voice, layout))
    vault.away = True
    async with running(node):
        live = node.recorder.live[files.recording]
        await eventually(lambda: live.memo.ended is not None, 8, "its end is seen")
    node = node.again()
    vault.away = False
    async with running(node):
        await eventually(lambda: files.recording in vault.ends, 8, "its end")
    assert vault.ends[files.recording].outcome is Outcome.PARTIAL
    assert vault.plain(files.recording) == stereo(left, right + array("h", bytes(CHUNK)))


def test_what_is_safe_is_freed_on_both_sides(tmp_path: Path) -> None:
    layout = SIDES[16_000]
    files = Node(tmp_path, FakeVault()).record(layout)
    paths = sides_of(files, layout)
    for path in paths:
        path.write_bytes(b"x" * 4 * CHUNK)
    files.forget(3, CHUNK, 1)
    for path in paths:
        assert path.read_bytes() == b"x" * CHUNK + bytes(2 * CHUNK) + b"x" * CHUNK


def test_either_side_has_a_writer(tmp_path: Path) -> None:
    layout = SIDES[8000]
    files = Node(tmp_path, FakeVault()).record(layout)
    for path in sides_of(files, layout):
        with path.open("ab"):
            assert files.audio.has_writer()
        assert not files.audio.has_writer()


def test_sides_without_a_key_are_removed(tmp_path: Path) -> None:
    node = Node(tmp_path, FakeVault())
    kept, lost = node.record(SIDES[16_000]), node.record(SIDES[8000])
    (node.tmpfs / f"{lost.recording}.memo").unlink()
    assert [files.recording for files in found(node.tmpfs)] == [kept.recording]
    assert {path.name[:32] for path in node.tmpfs.iterdir()} == {kept.recording}
    kept.remove()
    assert not list(node.tmpfs.iterdir())


def test_the_rate_is_the_kinds_own_or_what_is_asked_for() -> None:
    either = RecordingsConfig(rate_hz=8000)
    assert [either.rate_on(kind) for kind in Kind] == [8000, 8000]
    unset = RecordingsConfig()
    assert unset.rate_on(Kind.ASTERISK) == 16_000
    assert unset.rate_on(Kind.FREESWITCH) == 8000
    assert mixmonitor_options("/run/x", 8000) == "r(/run/x-l.raw)t(/run/x-r.raw)"
