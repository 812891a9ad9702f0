"""A chunk is sealed once under its nonce, whatever happens to its file meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from controller.agent.sealing import Gatherer, Recording
from controller.agent.tmpfs import Ended
from controller.vault.wire import Begin, Outcome
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
