"""An agent's certificates: read by the PBX when new, also after the agent that wrote them died."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from controller.agent.certificates import CertificateFiles
from controller.config import Config
from controller.config_file import parse
from controller.errors import CommandRefused, PbxctlError
from controller.fleet.files import NodeFiles
from controller.fleet.functions import Fleet, connect
from controller.model import Kind
from controller.pbx.base import Driver
from controller.pbx.worker_files import PARTS, read_written
from controller.pki.store import open_store, renew_due
from controller.pki.wanted import wanted
from controller.render.certificates import tls_files
from controller.render.files import render
from controller.render.write import replace, write
from tests.redis_server import RedisServer

TEXT = """
fleet: test
regions: {{eu: {{}}}}
nodes:
  n: {{kind: {kind}, region: eu, sip: "192.0.2.1:5061", control: "192.0.2.1:5039",
       password_file: secret, folder: etc}}
redis: {{url: "{url}"}}
state_dir: state
"""


class Pbx:
    """Of a driver what reloading needs."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.error: PbxctlError | None = None

    async def reload(self, module: str) -> None:
        self.told.append(module)
        if self.error:
            raise self.error


class World:
    """A rendered node and its driver; agents come and go."""

    def __init__(self, config: Config, fleet: Fleet, pbx: Pbx) -> None:
        self.config, self.fleet, self.pbx = config, fleet, pbx
        self.parts = list(PARTS[config.nodes["n"].kind]["certificates"])
        self._agent: asyncio.Task[None] | None = None

    def start_agent(self) -> None:
        self._agent = asyncio.create_task(CertificateFiles(self.config, self.fleet, "n", 0.1).run())

    async def stop_agent(self) -> None:
        if self._agent:
            self._agent.cancel()
            await asyncio.gather(self._agent, return_exceptions=True)

    def renew(self) -> None:
        now = dt.datetime.now(dt.UTC)
        open_store(self.config).renew(wanted(self.config), now, force=True)

    def on_disk(self) -> bool:
        folder = self.config.path("etc")
        return all(
            (folder / p).read_text() == f.text for p, f in tls_files(self.config, "n").items()
        )

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not check():
                await asyncio.sleep(0.02)


@pytest.fixture(params=[Kind.ASTERISK, Kind.FREESWITCH])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "secret").write_text("x\n")
    (tmp_path / "secret").chmod(0o600)
    with RedisServer() as server:
        text = TEXT.format(kind=request.param, url=server.url)
        config = parse(text, str(tmp_path / "pbxctl.yaml"))
        renew_due(config, dt.datetime.now(dt.UTC))
        write(render(config, "n"))
        fleet, pbx = Fleet(connect(config, "agent"), config.fleet), Pbx()
        await fleet.load()
        (lease,) = await fleet.claim("d", 60_000, ["n"])
        driver = asyncio.create_task(
            read_written(NodeFiles(fleet, "n"), request.param, lambda: lease, cast(Driver, pbx))
        )
        made = World(config, fleet, pbx)
        yield made
        await made.stop_agent()
        driver.cancel()
        await asyncio.gather(driver, return_exceptions=True)
        await fleet.close()


async def test_renewed_certificates_are_written_and_read_once(world: World) -> None:
    world.start_agent()
    await world.until(lambda: world.pbx.told == world.parts)
    await asyncio.sleep(0.5)
    assert world.pbx.told == world.parts  # in step: nothing more is asked of the PBX
    world.renew()
    await world.until(lambda: world.pbx.told == 2 * world.parts)
    assert world.on_disk()


async def test_what_an_agent_wrote_before_it_died_is_read(world: World) -> None:
    world.start_agent()
    await world.until(lambda: world.pbx.told == world.parts)
    await world.stop_agent()
    world.renew()
    for path, file in tls_files(world.config, "n").items():
        replace(world.config.path("etc") / path, file.text, file.mode)
    world.start_agent()
    await world.until(lambda: world.pbx.told == 2 * world.parts)


async def test_a_pbx_that_cannot_read_them_is_asked_again(world: World) -> None:
    world.pbx.error = CommandRefused("no such module")
    world.start_agent()
    await world.until(lambda: len(world.pbx.told) == 1)
    world.pbx.error = None
    await world.until(lambda: world.pbx.told[1:] == world.parts)
