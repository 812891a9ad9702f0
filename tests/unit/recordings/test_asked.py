"""The dialplan's question, and a PBX that did not wait for the answer."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from aiohttp import web

from controller.agent.recordings import Recordings
from controller.agent.shipping import keep_key
from controller.agent.tmpfs import SWAPS
from controller.config_file import parse
from controller.fleet.functions import Fleet
from controller.pki.store import renew_due
from controller.vault import xwing
from controller.vault.wire import PublicKey
from tests.lab.until import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")

TEXT = """
fleet: f
state_dir: state
regions: {e: {}}
nodes:
  n: {kind: asterisk, region: e, sip: "127.0.0.1:5061", control: "127.0.0.1:5039",
      password_file: n}
recordings: {vault: "127.0.0.1:1", folder: FOLDER, rules: [{name: all}]}
"""
ASKED = "/record?node=n&call=c1&pbx=p1&leg=l1&caller=1&callee=2&service=phone"


@asynccontextmanager
async def answering(
    place: Path, noswap: bool = True, swaps: Path = SWAPS
) -> AsyncIterator[tuple[str, int, Recordings]]:
    """An agent's answers at host and port; its vault is away, its key known."""
    folder = place / "tmpfs"
    folder.mkdir()
    mounted = "noswap,size=1m" if noswap else "size=1m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", mounted, "t", folder], check=True)
    (place / "n").write_text("secret\n")
    (place / "n").chmod(0o600)
    text = TEXT.replace("FOLDER", f"{folder}, noswap: {str(noswap).lower()}")
    config = parse(text, str(place / "pbxctl.yaml"))
    renew_due(config, dt.datetime.now(dt.UTC))
    public = xwing.public_key(xwing.generate())
    keys = config.state_path / "agent"
    keys.mkdir(parents=True)
    keep_key(keys / "vault.key", PublicKey(xwing.key_id(public), public))
    recordings = Recordings(config, cast(Fleet, None), ["n"], swaps=swaps)
    app = web.Application()
    recordings.add_to(app)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    task = asyncio.create_task(recordings.nodes["n"].run())
    try:
        await eventually(lambda: not recordings.nodes["n"].problem, 5, "ready")
        host, port = runner.addresses[0][:2]
        yield host, port, recordings
    finally:
        task.cancel()
        await asyncio.wait([task])
        await runner.cleanup()
        subprocess.run(["umount", "-l", folder], check=True)


async def test_a_wanted_call_gets_a_file(tmp_path: Path) -> None:
    async with answering(tmp_path) as (host, port, recordings):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{host}:{port}{ASKED}") as answer,
        ):
            verdict, recording, _ = (await answer.text()).split("|")
        assert verdict == "record"
        folder = Path(recordings.nodes["n"].path_of(recording)).parent
        names = {path.name.removeprefix(recording) for path in folder.glob(f"{recording}*")}
        assert names == {"-l.sln32", "-r.sln32", ".end", ".memo"}, "it is an Asterisk"


@pytest.mark.parametrize("text", ["\U0001f600", "\x01", '"', "\u2028"])
async def test_no_text_of_a_caller_keeps_a_call_from_being_recorded(
    tmp_path: Path, text: str
) -> None:
    said = dict.fromkeys(("call", "pbx", "leg", "caller", "callee"), text * 128)
    async with answering(tmp_path) as (host, port, recordings), aiohttp.ClientSession() as client:
        asked = {"node": "n", "service": "phone"} | said
        async with client.get(f"http://{host}:{port}/record", params=asked) as answer:
            assert (await answer.text()).startswith("record|")
        recorder = recordings.nodes["n"].recorder
        assert recorder
        assert len(recorder.live) == 1


async def test_a_pbx_that_went_on_without_the_answer_leaves_no_recording(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(tmp_path) as (host, port, recordings):
        with socket.create_connection((host, port)) as link:
            link.sendall(f"GET {ASKED} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await eventually(lambda: "too slow for the PBX" in caplog.text, 2, "told")
        recorder = recordings.nodes["n"].recorder
        assert recorder is not None
        assert not recorder.live
        assert not [*recordings.nodes["n"].folder.iterdir()]


async def ask(host: str, port: int) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}{ASKED}") as answer,
    ):
        return (await answer.text()).split("|")[0]


async def test_swap_that_is_turned_on_ends_recording_until_it_is_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    swaps = tmp_path / "swaps"
    none = "Filename Type Size Used Priority\n"
    swaps.write_text(none)
    async with answering(tmp_path, noswap=False, swaps=swaps) as (host, port, recordings):
        assert await ask(host, port) == "record"
        recorder = recordings.nodes["n"].recorder
        assert recorder is not None
        (live,) = recorder.live.values()
        swaps.write_text(none + "/swapfile file 2097148 0 -2\n")
        await eventually(lambda: live.stopping, 2, "what is on is stopped")
        assert "swaps to /swapfile" in live.stopping
        assert await ask(host, port) == "go_on"
        assert "1 recordings are stopped" in caplog.text, "a person is told"
        swaps.write_text(none)
        await eventually(lambda: not recordings.nodes["n"].problem, 2, "it is off again")
        assert await ask(host, port) == "record"
