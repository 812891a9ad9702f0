"""A real gate on a real redis-server, and a driver's hand that fills the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from controller.config import Config
from controller.config_file import parse
from controller.errors import PbxctlError
from controller.fleet.commands import CommandResult, NodeCommand, decode_command, encode
from controller.fleet.functions import Fleet, connect
from controller.fleet.state import Beat, Lease
from controller.model import CallStarted, NodeEvent
from controller.roles import gate
from controller.routing.policy import policy
from tests.redis_server import RedisServer

T = TypeVar("T")
DRIVER = "driver-1"
CONFIG = """\
fleet: test
regions: {{east: {{spill_to: [west]}}, west: {{}}}}
nodes:
  e1:
    {{kind: asterisk, region: east, sip: "127.0.15.1:5060", control: "127.0.15.1:5038",
     password_file: secret, calls_max: 100}}
  e2:
    {{kind: freeswitch, region: east, sip: "127.0.15.2:5060", control: "127.0.15.2:8021",
     password_file: secret, calls_max: 50}}
  w1:
    {{kind: asterisk, region: west, sip: "127.0.15.3:5060", control: "127.0.15.3:5038",
     password_file: secret, calls_max: 10}}
numbers:
  - {{prefix: "400", service: queue, priority: high}}
placement: {{ramp_s: 0}}
redis: {{url: "{redis}"}}
metrics: {{host: 127.0.15.9, first_port: 0}}
state_dir: state
security: {{signalling: plain, media: plain, control: plain}}
{more}
"""


def write_config(folder: Path, redis_url: str, more: str = "") -> Path:
    """A config of three nodes in two regions, in `folder`."""
    (folder / "secret").write_text("not-so-secret\n")
    (folder / "secret").chmod(0o600)
    file = folder / "pbxctl.yaml"
    file.write_text(CONFIG.format(redis=redis_url, more=more))
    return file


class Playing:
    """Plays the drivers of a fleet: registers every node, beats, and carries out commands."""

    def __init__(self, config: Config, fleet: Fleet) -> None:
        self.config = config
        self.fleet = fleet
        self.leases: dict[str, Lease] = {}
        self.told: list[NodeCommand] = []
        self.answer: Callable[[NodeCommand], CommandResult | None] = lambda _: CommandResult("done")
        self.cpu = 0.2

    async def join(self, names: Sequence[str] = ()) -> None:
        """Brings the nodes up, by a driver that forgets what was before."""
        await self.fleet.set_policy(policy(self.config))
        names = names or list(self.config.nodes)
        for lease in await self.fleet.claim(DRIVER, 60_000, names):
            node = self.config.nodes[lease.node]
            self.leases[lease.node] = lease
            facts = {
                "region": node.region, "address": node.sip, "kind": node.kind.value,
                "weight": node.weight, "calls_max": node.calls_max, "owner": DRIVER,
            }  # fmt: skip
            await self.fleet.register(lease, facts)
            await self.fleet.client.hset(f"pbx:{{{self.fleet.name}}}:node:{lease.node}", "hold", 0)
            await self.fleet.beat(lease, Beat(True, version="22.10.1", channels=0, cpu=self.cpu))
            await self.fleet.reconcile(lease, [])

    async def event(self, node: str, *events: NodeEvent) -> None:
        await self.fleet.events(self.leases[node], events)

    async def start(self, node: str, count: int) -> None:
        """So many calls that the fleet did not place."""
        await self.event(node, *(CallStarted(f"{node}-{i}", caller="555") for i in range(count)))

    async def work(self) -> None:
        """Beats, and runs commands as a worker does, until cancelled."""
        while True:
            for lease in list(self.leases.values()):
                try:
                    _, waiting = await self.fleet.beat(lease, Beat(True, cpu=self.cpu))
                except PbxctlError:  # the fleet is being emptied just now
                    continue
                while waiting and (taken := await self.fleet.take(lease)):
                    command = decode_command(taken.body)
                    self.told.append(command)
                    result = self.answer(command)
                    if result:
                        await self.fleet.done(lease, taken.id, encode(result))
            await asyncio.sleep(0.05)


async def until_answers(config: Config, gate_task: asyncio.Task[None]) -> None:
    """Waits for the gate to take connections; raises what ended it before that."""
    async with asyncio.timeout(10):
        while True:
            if gate_task.done():
                gate_task.result()
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_unix_connection(config.state_path / "gate.sock")
                writer.close()
                return
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Playing]:
    """A gate and its fleet's drivers, in this loop."""
    stop = asyncio.Event()
    fleet = Fleet(connect(config, "gate"), config.fleet)
    playing = Playing(config, fleet)
    await playing.join()
    tasks = [asyncio.create_task(gate.run(config, stop)), asyncio.create_task(playing.work())]
    try:
        await until_answers(config, tasks[0])
        yield playing
    finally:
        stop.set()
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await fleet.close()
        tasks[0].result()


class Stand:
    """The same for tests that are not asynchronous: everything runs in a thread of its own."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.redis = RedisServer()
        self.folder = folder
        self.more = more
        self.playing: Playing
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main)

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # handed to the test, which raises it
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        async with serving(self.config) as self.playing:
            self._ready.set()
            await self._stop.wait()

    def reset(self) -> None:
        """Empties Redis and brings the nodes back; the driver's hand answers "done" again."""
        self.run(self._reset())

    async def _reset(self) -> None:
        playing = self.playing
        playing.leases.clear()
        await playing.fleet.client.flushall()
        playing.told.clear()
        playing.answer = lambda _: CommandResult("done")
        await playing.join()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the stand's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def __enter__(self) -> Stand:
        self.redis.start()
        self.file = write_config(self.folder, self.redis.url, self.more)
        self.config = parse(self.file.read_text(), str(self.file))
        self._thread.start()
        self._ready.wait(20)
        if self._error:
            self.redis.stop()
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self.redis.__exit__(None, None, None)
        if self._error:
            raise self._error
