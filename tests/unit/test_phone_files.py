"""An agent's file of phones: on a full disk, with its node away, with Redis emptied."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from controller.agent.phones import PhoneFiles
from controller.config_file import parse
from controller.errors import DeadlineExceeded, PbxctlError
from controller.fleet.files import NodeFiles
from controller.fleet.functions import Fleet, connect
from controller.fleet.phones import FleetPhones, NodePhones, PublishedPhone
from controller.model import Kind, MediaPolicy
from controller.pbx.base import Driver
from controller.pbx.worker_files import read_written
from tests.gate_server import Playing, write_config
from tests.redis_server import RedisServer

MANY = 2000  # their file is larger than the small disk


def phones(count: int) -> list[PublishedPhone]:
    return [
        PublishedPhone(f"{n}", f"Phone {n}", MediaPolicy.REQUIRE, "1" * 32, "2" * 64)
        for n in range(1000, 1000 + count)
    ]


class Pbx:
    """Of a driver what reloading needs."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.error: PbxctlError | None = None

    async def reload(self, module: str) -> None:
        self.told.append(module)
        if self.error:
            raise self.error


@dataclass
class World:
    playing: Playing
    pbx: Pbx
    phones: FleetPhones
    epoch: str
    file: Path
    agent: asyncio.Task[None]

    async def publish(self, version: int, count: int) -> None:
        await self.phones.publish(self.epoch, "east", version, phones(count))

    async def told(self) -> NodePhones:
        return (await self.phones.acknowledged()).get("e1", NodePhones())

    async def until_told(self, version: int, problem: str = "") -> None:
        deadline = asyncio.get_running_loop().time() + 15
        while True:
            told = await self.told()
            as_wanted = problem in told.problem if problem else not told.problem
            if told.versions.get("east") == version and as_wanted:
                return
            assert asyncio.get_running_loop().time() < deadline, told
            await asyncio.sleep(0.05)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
async def world(tmp_path: Path, disk: Path) -> AsyncIterator[World]:
    with RedisServer() as server:
        path = write_config(tmp_path, server.url)
        text = path.read_text().replace("calls_max: 100}", f'calls_max: 100, folder: "{disk}"}}')
        config = parse(text, str(path))
        fleet = Fleet(connect(config, "agent"), config.fleet)
        playing = Playing(config, fleet)
        await playing.join()
        epoch = await fleet.lead("phones", "me", 60_000)
        assert epoch
        pbx = Pbx()
        tasks = [
            asyncio.create_task(playing.work()),
            asyncio.create_task(
                read_written(
                    NodeFiles(fleet, "e1"),
                    Kind.ASTERISK,
                    lambda: playing.leases["e1"],
                    cast(Driver, pbx),
                )
            ),
            asyncio.create_task(PhoneFiles(config, fleet, "e1").run()),
        ]
        file = disk / "pbxctl-phones.conf"
        yield World(playing, pbx, FleetPhones(fleet), epoch, file, tasks[-1])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await fleet.close()


async def test_a_change_is_written_read_by_the_pbx_and_acknowledged(world: World) -> None:
    await world.publish(1, 3)
    await world.until_told(1)
    assert world.file.read_text().count("(pbxctl-phone)\n") == 3
    assert world.file.stat().st_mode & 0o777 == 0o600
    assert world.pbx.told == ["pjsip"]
    await asyncio.sleep(1)
    assert len(world.pbx.told) == 1  # in step, so nothing more is asked of the PBX


async def test_on_a_full_disk_the_old_file_stays_whole(world: World) -> None:
    await world.publish(1, 3)
    await world.until_told(1)
    before = world.file.read_bytes()
    await world.publish(2, MANY)
    await world.until_told(1, "No space left on device")
    assert world.file.read_bytes() == before
    assert [p.name for p in world.file.parent.iterdir()] == [
        world.file.name
    ]  # nothing half-written
    subprocess.run(["mount", "-o", "remount,size=4m", world.file.parent], check=True)
    await world.until_told(2)
    assert world.file.read_text().count("(pbxctl-phone)\n") == MANY


async def test_a_file_that_somebody_changed_is_put_right(world: World) -> None:
    await world.publish(1, 3)
    await world.until_told(1)
    before = world.file.read_text()
    for spoil in (world.file.unlink, lambda: world.file.write_text("[evil]\n")):
        reloads = len(world.pbx.told)
        spoil()
        async with asyncio.timeout(5):
            while len(world.pbx.told) == reloads:
                await asyncio.sleep(0.05)
        assert world.file.read_text() == before


async def test_what_an_agent_of_another_version_wrote_is_mended(world: World) -> None:
    await world.publish(1, 3)
    await world.until_told(1)
    await asyncio.sleep(1)
    world.agent.cancel()
    now, reloads = world.file.read_text(), len(world.pbx.told)
    for older in (now, now.replace("nonce_lifetime = 5", "nonce_lifetime = 32")):
        world.file.write_text(older)
        playing = world.playing
        agent = asyncio.create_task(PhoneFiles(playing.config, playing.fleet, "e1").run())
        await asyncio.sleep(1.5)
        agent.cancel()
        assert world.file.read_text() == now
        assert len(world.pbx.told) == reloads + (older != now)


async def test_a_node_out_of_reach_is_pending_and_gets_it_later(world: World) -> None:
    await world.publish(1, 1)
    await world.until_told(1)
    world.pbx.error = DeadlineExceeded("Reload: no answer in 5 s")
    await world.publish(2, 2)
    await world.until_told(1, "not read by the PBX yet: Reload: no answer in 5 s")
    world.pbx.error = None
    await world.until_told(2)


async def test_an_emptied_redis_leaves_the_file_alone(world: World) -> None:
    await world.publish(4, 5)
    await world.until_told(4)
    before = world.file.read_bytes()
    await world.playing.fleet.client.flushall()
    await asyncio.sleep(1.5)
    assert world.file.read_bytes() == before
    await world.playing.join()
    epoch = await world.playing.fleet.lead("phones", "me", 60_000)
    assert epoch
    await world.phones.publish(epoch, "east", 4, phones(5))
    await world.until_told(4)
