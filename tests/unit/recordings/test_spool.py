"""What a power cut or a full disk leaves of the spool, and what its next agent makes of it."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from controller.agent import spool
from controller.agent.spool import Spool
from controller.vault.body import CHUNK
from tests.lab.until import eventually
from tests.unit.recordings.made import FakeVault, Node
from tests.unit.recordings.test_recorder import nothing_left, running, write


@pytest.mark.parametrize("left", [0, 1, 700])
async def test_an_opening_that_is_not_whole_stops_nothing(tmp_path: Path, left: int) -> None:
    """A power cut keeps the name of a file that was not synced, and none or a part of its bytes."""
    vault = FakeVault()
    node = Node(tmp_path, vault)
    files = node.record()
    write(files, secrets.token_bytes(CHUNK))
    async with running(node):
        await eventually(lambda: files.recording in vault.bodies, 5, "one chunk")
    whole = tmp_path / "spool" / "open" / files.recording
    torn = whole.with_name("0" * 32)
    torn.write_bytes(whole.read_bytes()[:left])
    for path in node.tmpfs.iterdir():
        path.unlink()
    async with running(node.again()) as born:
        await eventually(lambda: files.recording in vault.ends, 5, "the end of the other")
        live = born.record()
        write(live, secrets.token_bytes(CHUNK))
        live.end_in_order()
        await eventually(lambda: live.recording in vault.ends, 5, "the next one")
        await eventually(lambda: nothing_left(born), 3, "nothing is left")
    assert not torn.exists()


def test_what_is_set_aside_stays_when_numbers_begin_again(tmp_path: Path) -> None:
    for body in (b"first", b"second", b"third"):
        made = Spool(tmp_path / "spool", 1 << 20)  # an agent that was started again
        made.add(body)
        found = made.first()
        assert found
        made.set_aside(found[0])
    kept = {path.read_bytes() for path in (tmp_path / "spool" / "refused").iterdir()}
    assert kept == {b"first", b"second", b"third"}


@pytest.mark.parametrize("of_it", ["audio", "end"])
async def test_what_is_gone_from_the_spool_keeps_nothing_else_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_it: str
) -> None:
    """A request that the disk damaged is set aside; the vault then misses what was in it."""
    monkeypatch.setattr(spool, "GAP_S", 0.5)
    vault = FakeVault()
    vault.away = True
    async with running(Node(tmp_path, vault)) as node:
        files = node.record()
        write(files, secrets.token_bytes(2 * CHUNK))
        await eventually(lambda: len(node.spool) == 1, 5, "the spool")
        write(files, secrets.token_bytes(2 * CHUNK))
        await eventually(lambda: len(node.spool) == 2, 5, "more in the spool")
        files.end_in_order()
        await eventually(lambda: not node.recorder.live, 5, "all of it in the spool")
        damaged = sorted((tmp_path / "spool").glob("0*"))[0 if of_it == "audio" else -2]
        damaged.write_bytes(b"\xc1")
        vault.away = False
        other = node.record()
        write(other, secrets.token_bytes(CHUNK))
        other.end_in_order()
        await eventually(lambda: other.recording in vault.ends, 15, "the other")
        await eventually(lambda: not len(node.spool), 10, "an empty spool")
    assert any("400" in words for words in node.alarms)
    assert any("misses" in words for words in node.alarms)
    assert len(list((tmp_path / "spool" / "refused").iterdir())) > 1
