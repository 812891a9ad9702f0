"""The agent's HTTP answer while Redis is away, host load, and the snapshot on disk."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from controller.agent import snapshots
from controller.agent.answers import Answers, line
from controller.agent.host_load import busy_share, cpu_times
from controller.config_file import parse
from controller.errors import PbxctlError
from controller.fleet.functions import Fleet, connect
from controller.model import Placed
from controller.render.files import folder_of
from controller.routing.fallback import Snapshot
from tests.property.test_fallback import CONFIG_TEXT, node

EDGE = "edges: {k1: {region: east, sip: '127.0.0.1:5070', peers: [192.0.2.0/24]}}\n"


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    (tmp_path / "pw").write_text("secret\n")
    config = parse(
        CONFIG_TEXT + f"redis: {{url: 'unix://{tmp_path}/nowhere.sock'}}\n", str(tmp_path / "c")
    )
    answers = Answers(config, Fleet(connect(config, "agent", timeout_s=0.2), config.fleet))
    answers.snapshot = Snapshot(time.time(), (node("e1"), node("e2", load=0.5)))
    return answers


async def ask(answers: Answers, query: str) -> tuple[int, str]:
    async with (
        TestClient(TestServer(answers.app())) as client,
        client.get(f"/route?{query}") as response,
    ):
        return response.status, await response.text()


async def test_one_line_of_six_fields(answers: Answers) -> None:
    status, text = await ask(answers, "call=x&region=east&callee=95&caller=%00%FF%0D%0A|")
    fields = text.split("|")
    assert status == 200
    assert (fields[0], fields[1], fields[2], len(fields)) == ("place", "e1", "e1:5060", 6)


@pytest.mark.parametrize(
    "query",
    [
        "region=east",
        "call=&region=east",
        f"call={'x' * 257}&region=east",
        "call=x&region=mars",
        "call=x",
    ],
)
async def test_a_question_without_its_parts_is_refused(answers: Answers, query: str) -> None:
    assert (await ask(answers, query))[0] == 400


async def test_no_field_can_hold_a_separator() -> None:
    placed = Placed("n|x", "h:1", "p", "why", "echo")
    assert line(placed).count("|") == 5


def test_busy_share() -> None:
    before = cpu_times("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 …")
    after = cpu_times("cpu  150 0 150 900 0 0 0 0 0 0\ncpu0 …")
    assert busy_share(before, after) == 0.5
    assert busy_share(after, after) == 0


def test_a_snapshot_survives_and_a_broken_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "state" / "agent" / "snapshot.json"
    assert snapshots.read(path) is None
    taken = snapshots.take([node("e1")])
    before = os.umask(0o022)
    try:
        snapshots.write(path, taken)
    finally:
        os.umask(before)
    assert snapshots.read(path) == taken
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700, "state_dir is closed to others"
    path.write_bytes(path.read_bytes()[:-5])
    assert snapshots.read(path) is None


async def test_a_list_that_kamailio_did_not_reload_is_reloaded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pw").write_text("secret\n")
    config = parse(f"{CONFIG_TEXT}{EDGE}state_dir: {tmp_path}/state\n", str(tmp_path / "c"))
    folder = folder_of(config, "k1")
    folder.mkdir(parents=True)
    (folder / "ctl").touch()
    tool, asked = tmp_path / "kamcmd", tmp_path / "asked"
    refusal = "echo 'error: 500 - Ongoing reload'"  # and it ends with 0
    tool.write_text(f"#!/bin/sh\necho $3 >> {asked}\n[ $(wc -l < {asked}) -gt 1 ] || {refusal}\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(snapshots, "READ_AGAIN_S", 0.1)
    kept, snapshot = snapshots.DispatcherList(config, "k1"), snapshots.take([node("e1")])
    with pytest.raises(PbxctlError, match="Ongoing reload"):
        await kept.update(snapshot)
    assert "e1:5060" in (folder / "pbxctl-dispatcher.list").read_text()
    assert not await kept.update(snapshot)
    await asyncio.sleep(0.15)
    for _ in range(3):
        assert not await kept.update(snapshot)
    assert asked.read_text() == 2 * "dispatcher.reload\n"


def test_nodes_that_an_emptied_redis_does_not_have_yet_stay_as_they_were() -> None:
    drained = msgspec.structs.replace(node("e1"), want="draining")
    before = snapshots.take([drained, node("e2"), node("w1")])
    taken = snapshots.take([node("e2", calls=3)], before, ["e1", "e2"])
    assert {n.name: n for n in taken.nodes} == {"e1": drained, "e2": node("e2", calls=3)}
