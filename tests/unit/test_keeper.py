"""What `pbxctl up` does with a role that ends, hangs or is slow to start."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from controller.keeper import Keeper
from tests.lab.until import eventually

ROLE = """
import sys, time
from pathlib import Path
from controller import notify
with Path(sys.argv[1]).open("a") as starts:
    starts.write("x")
notify.ready()
for _ in range(int(sys.argv[2])):
    notify.tell("WATCHDOG=1")
    time.sleep(0.1)
time.sleep(float(sys.argv[3]))
"""


def keeper(tmp_path: Path, words: int, silent_s: float) -> tuple[Keeper, Path]:
    """Of a role that says `words` times that it lives, then nothing, and ends after silent_s."""
    starts = tmp_path / "starts"
    starts.touch()
    command = [sys.executable, "-c", ROLE, str(starts), str(words), str(silent_s)]
    return Keeper("role", command, hang_s=0.8), starts


@pytest.mark.parametrize(("words", "again"), [(0, True), (40, False)])
async def test_a_role_that_says_nothing_is_started_again(
    tmp_path: Path, words: int, again: bool, caplog: pytest.LogCaptureFixture
) -> None:
    kept, starts = keeper(tmp_path, words, silent_s=60)
    await kept.listen(tmp_path / "notify")
    kept.start()
    try:
        await asyncio.wait_for(kept.ready.wait(), 5)
        if again:
            await eventually(lambda: len(starts.read_text()) > 1, 5, "another one")
        else:
            await asyncio.sleep(2.5)
        assert ("hangs" in caplog.text) == again == (len(starts.read_text()) > 1)
    finally:
        await kept.end()


async def test_a_program_that_was_never_asked_may_be_silent(tmp_path: Path) -> None:
    """redis-server knows nothing of this."""
    kept, starts = keeper(tmp_path, 0, silent_s=60)
    kept.start()
    try:
        await eventually(starts.read_text, 5, "it runs")
        await asyncio.sleep(1.5)
        assert starts.read_text() == "x"
    finally:
        await kept.end()


async def test_a_role_that_ends_is_started_again(tmp_path: Path) -> None:
    kept, starts = keeper(tmp_path, 1, silent_s=0)
    await kept.listen(tmp_path / "notify")
    kept.start()
    try:
        await eventually(lambda: len(starts.read_text()) > 1, 5, "another one")
    finally:
        await kept.end()


async def test_a_program_that_could_not_be_started_is_tried_again(tmp_path: Path) -> None:
    """As while its package is being replaced, or no process can be had."""
    binary, starts = tmp_path / "role", tmp_path / "starts"
    kept = Keeper("role", [str(binary)])
    kept.start()
    try:
        await asyncio.sleep(0.3)
        binary.write_text(f"#!/bin/sh\necho x >> {starts}\nexec sleep 60\n")
        binary.chmod(0o700)
        await eventually(starts.exists, 5, "it runs")
    finally:
        await kept.end()
