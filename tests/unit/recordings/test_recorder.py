"""From the file to the vault's word, with a vault that is away, hangs, forgets or refuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from controller.agent import sealing
from controller.agent.tmpfs import Files
from controller.vault.body import CHUNK
from controller.vault.wire import Begin, Outcome
from tests.lab.until import eventually
from tests.unit.recordings.made import FakeVault, Node, new

SECOND = 32_000


@contextlib.asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    task = asyncio.create_task(node.recorder.run())
    try:
        yield node
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def write(files: Files, data: bytes) -> None:
    with files.raw.open("ab") as file:
        file.write(data)


def nothing_left(node: Node) -> bool:
    return not list(node.tmpfs.iterdir()) and not len(node.spool)


async def test_a_recording_from_beginning_to_end(tmp_path: Path) -> None:
    vault = FakeVault()
    async with running(Node(tmp_path, vault)) as node:
        files, audio = node.record(), secrets.token_bytes(5 * CHUNK + 321)
        write(files, audio[: 2 * CHUNK])
        await eventually(lambda: len(vault.bodies.get(files.recording, [])) == 2, 5, "two chunks")
        write(files, audio[2 * CHUNK :])
        files.end_in_order()
        await eventually(lambda: files.recording in vault.ends, 5, "its end")
        assert vault.plain(files.recording) == audio
        assert vault.ends[files.recording].outcome is Outcome.COMPLETE
        await eventually(lambda: nothing_left(node), 3, "nothing is left on the node")


async def test_one_request_has_what_is_new_of_all(tmp_path: Path) -> None:
    vault = FakeVault()
    node = Node(tmp_path, vault)
    recorded = [node.record() for _ in range(20)]
    for files in recorded:
        write(files, secrets.token_bytes(CHUNK))
    async with running(node):
        await eventually(lambda: len(vault.bodies) == 20, 3, "all of them")
    assert len(vault.requests) == 1


@pytest.mark.parametrize("fault", ["away", "silent"])
async def test_what_the_vault_does_not_take_is_spooled_and_comes_in_order(
    tmp_path: Path, fault: str
) -> None:
    vault = FakeVault()
    async with running(Node(tmp_path, vault)) as node:
        files, audio = node.record(), secrets.token_bytes(8 * CHUNK + 5)
        write(files, audio[:CHUNK])
        await eventually(lambda: files.recording in vault.bodies, 5, "one chunk")
        setattr(vault, fault, True)
        write(files, audio[CHUNK : 4 * CHUNK])
        await eventually(lambda: len(node.spool), 5, "the spool")
        write(files, audio[4 * CHUNK :])
        files.end_in_order()
        await eventually(lambda: not list(node.tmpfs.iterdir()), 5, "all of it is in the spool")
        assert not any(audio[i : i + 64] in spooled(node) for i in range(0, len(audio) - 64, 64))
        setattr(vault, fault, False)
        if fault == "silent":
            flight = node.recorder._flight
            assert flight
            flight.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await flight.task
            node.recorder._flight = None
        await eventually(lambda: files.recording in vault.ends, 10, "its end")
        assert vault.plain(files.recording) == audio
        await eventually(lambda: nothing_left(node), 3, "the spool is empty")


async def test_the_spool_empties_while_the_call_goes_on(tmp_path: Path) -> None:
    vault = FakeVault()
    async with running(Node(tmp_path, vault)) as node:
        files = node.record()
        vault.away = True

        def talk() -> None:
            write(files, secrets.token_bytes(CHUNK))

        for _ in range(8):
            talk()
            await eventually(partial(grown, node, len(node.spool)), 3, "another request in it")
        vault.away = False
        for _ in range(40):
            talk()
            await asyncio.sleep(0.1)
            if not len(node.spool):
                break
        assert not len(node.spool), "it is emptied faster than it is filled"


def grown(node: Node, before: int) -> bool:
    return len(node.spool) > before


def spooled(node: Node) -> bytes:
    return b"".join(p.read_bytes() for p in node.place.rglob("spool/*") if p.is_file())


async def test_a_killed_agent_goes_on_where_it_was(tmp_path: Path) -> None:
    vault = FakeVault()
    node = Node(tmp_path, vault)
    files, audio = node.record(), secrets.token_bytes(6 * CHUNK)
    for part in range(6):
        write(files, audio[part * CHUNK : (part + 1) * CHUNK])
        vault.away = part in (2, 3)
        async with running(node):
            await asyncio.sleep(0.4)
        node = node.again()
    files.end_in_order()
    vault.away = False
    async with running(node):
        await eventually(lambda: files.recording in vault.ends, 10, "its end")
    assert vault.plain(files.recording) == audio


async def test_freed_audio_is_never_sealed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake vault fails on one chunk that comes with two contents."""
    vault = FakeVault()
    node = Node(tmp_path, vault)
    files, audio = node.record(), secrets.token_bytes((sealing.FORGET_CHUNKS + 9) * CHUNK)
    write(files, audio)
    async with running(node):
        await eventually(
            lambda: files.raw.read_bytes()[:64] == bytes(64), 10, "its beginning is freed"
        )
        assert files.mark() >= sealing.FORGET_CHUNKS
    before = len(vault.requests)
    node = node.again()
    files = node.recorder.live[files.recording].files
    write(files, b"tail")
    files.end_in_order()
    async with running(node):
        await eventually(lambda: files.recording in vault.ends, 10, "its end")
    assert len(vault.requests) > before
    assert vault.plain(files.recording) == audio + b"tail"


async def test_a_crash_of_the_pbx_is_partial_and_whole(tmp_path: Path) -> None:
    vault = FakeVault()
    async with running(Node(tmp_path, vault)) as node:
        files, audio = node.record(), secrets.token_bytes(CHUNK + 77)
        writer = files.raw.open("ab", buffering=0)
        writer.write(audio)
        await asyncio.sleep(sealing.QUIET_S + 0.6)
        assert node.recorder.live[files.recording].memo.ended is None, "it is open for writing"
        writer.close()
        await eventually(lambda: files.recording in vault.ends, 8, "its end")
    assert vault.ends[files.recording].outcome is Outcome.PARTIAL
    assert "crash" in vault.ends[files.recording].reason
    assert vault.plain(files.recording) == audio


async def test_a_node_that_lost_its_memory_ends_what_was_open(tmp_path: Path) -> None:
    vault = FakeVault()
    node = Node(tmp_path, vault)
    files = node.record()
    write(files, secrets.token_bytes(3 * CHUNK))
    async with running(node):
        await eventually(lambda: len(vault.bodies.get(files.recording, [])) == 3, 5, "3 chunks")
        vault.away = True
        write(files, secrets.token_bytes(2 * CHUNK))
        await eventually(lambda: len(node.spool), 5, "the spool")
    for path in node.tmpfs.iterdir():
        path.unlink()
    vault.away = False
    async with running(node.again()) as born:
        await eventually(lambda: files.recording in vault.ends, 10, "its end")
        await eventually(lambda: nothing_left(born), 3, "nothing is left")
    end = vault.ends[files.recording]
    assert (end.outcome, end.chunks, end.plain_bytes) == (Outcome.PARTIAL, 5, 5 * CHUNK)
    assert "memory" in end.reason


async def test_a_file_that_is_cut_is_never_sealed_further(tmp_path: Path) -> None:
    vault = FakeVault()
    async with running(Node(tmp_path, vault)) as node:
        files = node.record()
        write(files, secrets.token_bytes(2 * CHUNK))
        await eventually(lambda: len(vault.bodies.get(files.recording, [])) == 2, 5, "2 chunks")
        os.truncate(files.raw, 10)
        await eventually(lambda: files.recording in vault.ends, 5, "its end")
    assert vault.ends[files.recording].outcome is Outcome.PARTIAL
    assert vault.ends[files.recording].chunks == 2
    assert any("cut" in words for words in node.alarms)


async def test_a_full_spool_is_told_and_nothing_is_dropped(tmp_path: Path) -> None:
    vault = FakeVault()
    vault.away = True
    async with running(Node(tmp_path, vault, spool_bytes=3 * CHUNK)) as node:
        files, audio = node.record(), secrets.token_bytes(9 * CHUNK)
        write(files, audio[: 2 * CHUNK])
        await eventually(lambda: len(node.spool), 5, "the spool")
        write(files, audio[2 * CHUNK :])
        await eventually(lambda: node.recorder.problem, 5, "no more may begin")
        assert any("spool_max_mb" in words for words in node.alarms)
        files.end_in_order()
        vault.away = False
        await eventually(lambda: files.recording in vault.ends, 15, "its end")
        assert vault.plain(files.recording) == audio
        assert not node.recorder.problem, "recording goes on"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
async def test_a_full_tmpfs_comes_free_again(tmp_path: Path) -> None:
    """Nor does what has ended stand in its own way: its end cannot be noted while all is full."""
    (tmp_path / "tmpfs").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "noswap,size=1m", "t", str(tmp_path / "tmpfs")]
    subprocess.run(mount, check=True)
    vault = FakeVault()
    vault.away = True
    try:
        node = Node(tmp_path, vault, spool_bytes=0)
        both = [node.record() for _ in range(2)]
        audio = secrets.token_bytes(20 * CHUNK)
        write(both[0], audio)
        both[0].end_in_order()
        with pytest.raises(OSError, match="No space"), both[1].raw.open("ab", buffering=0) as file:
            while file.write(audio) == len(audio):
                pass
            file.write(audio)
        kept = both[1].raw.read_bytes()
        async with running(node):
            await eventually(lambda: set(node.stopped) == {f.recording for f in both}, 5, "stop")
            assert any("tmpfs is full too" in words for words in node.alarms), node.alarms
            await asyncio.sleep(sealing.QUIET_S + sealing.NOTE_S + 0.5)
            vault.away = False
            await eventually(lambda: len(vault.ends) == 2, 20, "both ends")
            await eventually(lambda: nothing_left(node), 3, "nothing is left")
        assert vault.plain(both[0].recording) == audio
        assert vault.plain(both[1].recording) == kept
        assert {end.outcome for end in vault.ends.values()} == {Outcome.PARTIAL}
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "tmpfs"], check=True)


async def test_a_vault_that_lost_what_it_took_is_told_of(tmp_path: Path) -> None:
    vault = FakeVault()
    async with running(Node(tmp_path, vault)) as node:
        files, audio = node.record(), secrets.token_bytes(4 * CHUNK)
        write(files, audio[: 2 * CHUNK])
        await eventually(lambda: len(vault.bodies.get(files.recording, [])) == 2, 5, "2 chunks")
        await asyncio.sleep(0.3)
        vault.bodies[files.recording] = vault.bodies[files.recording][:1]
        write(files, audio[2 * CHUNK :])
        files.end_in_order()
        await eventually(lambda: files.recording in vault.ends, 10, "its end")
    assert any("lost chunks 1 to 1" in words for words in node.alarms)
    assert vault.plain(files.recording) == audio, "what it lost was still here"


async def test_a_vault_that_forgot_it_all_is_told_it_again(tmp_path: Path) -> None:
    vault = FakeVault()
    async with running(Node(tmp_path, vault)) as node:
        files, audio = node.record(), secrets.token_bytes(4 * CHUNK)
        write(files, audio[: 2 * CHUNK])
        await eventually(lambda: len(vault.bodies.get(files.recording, [])) == 2, 5, "2 chunks")
        await asyncio.sleep(0.3)
        vault.begun.clear()
        vault.bodies.clear()
        write(files, audio[2 * CHUNK :])
        files.end_in_order()
        await eventually(lambda: files.recording in vault.ends, 10, "its end")
    assert any("lost recording" in words for words in node.alarms)
    assert vault.plain(files.recording) == audio


async def test_what_the_vault_refuses_stops(tmp_path: Path) -> None:
    vault = FakeVault()
    async with running(Node(tmp_path, vault)) as node:
        files = node.record()
        vault.refuses = files.recording
        write(files, secrets.token_bytes(CHUNK))
        await eventually(lambda: node.stopped == [files.recording], 5, "the PBX is asked to stop")
        assert any("refuses" in words for words in node.alarms)
        assert not list(node.tmpfs.iterdir())


async def test_a_call_that_never_spoke_is_nothing(tmp_path: Path) -> None:
    vault = FakeVault()
    async with running(Node(tmp_path, vault)) as node:
        files = node.record()
        files.end_in_order()
        await eventually(lambda: nothing_left(node), 5, "gone")
    assert not vault.begun


async def test_the_key_is_in_the_memo_alone(tmp_path: Path) -> None:
    vault = FakeVault()
    vault.away = True
    async with running(Node(tmp_path, vault)) as node:
        files = node.record()
        key = node.recorder.live[files.recording].memo.data_key
        write(files, secrets.token_bytes(3 * CHUNK))
        await eventually(lambda: len(node.spool), 5, "the spool")
        having = [p for p in tmp_path.rglob("*") if p.is_file() and key in p.read_bytes()]
    assert having == [node.tmpfs / f"{files.recording}.memo"]


def test_files_are_made_for_the_group_to_write_alone(tmp_path: Path) -> None:
    files, memo = new(tmp_path)
    files.remove()
    files.make(memo, os.getgid())
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {".raw": 0o620, ".end": 0o620, ".memo": 0o600}
    assert isinstance(memo.begin, Begin)
