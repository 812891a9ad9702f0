"""What people order of recordings, on a node whose disk or tmpfs has no room left."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import cast

import pytest

from controller.agent.recording_orders import RecordingOrders
from controller.agent.recordings import Call
from controller.fleet import commands
from controller.fleet.commands import CommandResult
from controller.fleet.functions import Fleet
from controller.fleet.recordings import FleetRecordings, Verb, Wanted
from tests.lab.until import eventually
from tests.unit.recordings.test_asked import answering

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@pytest.mark.parametrize("verb", ["stop", "start"])
async def test_a_full_tmpfs_ends_no_agent_and_a_recording_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: Verb
) -> None:
    wanted = [Wanted("1", verb, "p1", "c1", "1", "2", "")]
    results: list[CommandResult] = []
    sent: list[object] = []

    async def take(_: FleetRecordings, __: str) -> Wanted | None:
        return wanted.pop() if wanted else None

    async def told(_: FleetRecordings, __: Wanted, result: CommandResult) -> None:
        results.append(result)

    async def send(_: Fleet, __: str, order: object, ___: float) -> CommandResult:
        sent.append(order)
        full = tmp_path / "tmpfs" / "ballast"
        with contextlib.suppress(OSError), full.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        return CommandResult("done", "", "leg-2")

    monkeypatch.setattr(FleetRecordings, "take", take)
    monkeypatch.setattr(FleetRecordings, "told", told)
    monkeypatch.setattr(commands, "send", send)
    async with answering(tmp_path) as (_, _, recordings):
        node = recordings.nodes["n"]
        if verb == "stop":
            node.begin(Call("c1", "p1", "l1", "1", "2"), None)
            await send(cast(Fleet, None), "", None, 0)
            sent.clear()
        orders = asyncio.create_task(RecordingOrders(cast(Fleet, None), node, tmp_path).run())
        await eventually(lambda: results or orders.done(), 5, "an answer")
        assert not orders.done()
        orders.cancel()
    assert len(sent) == 1
    if verb == "stop":
        assert isinstance(sent[0], commands.StopRecording)
    assert results[0].state == "done"
