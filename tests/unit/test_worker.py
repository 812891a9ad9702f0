"""A worker between a scripted PBX and a real redis-server: what a lost link or word does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from controller.config import NodeConfig
from controller.config_recordings import RecordingsConfig
from controller.errors import CommandRefused, FleetUnreachable, LinkLost
from controller.fleet import commands
from controller.fleet.functions import Fleet
from controller.fleet.state import Lease
from controller.media.policy import Demands, judge
from controller.model import (
    CallTruth,
    Kind,
    NodeEvent,
    NodeFacts,
    PhoneRegistered,
    Ruling,
    Security,
)
from controller.pbx.options import OptionsProbe
from controller.pbx.worker import Worker
from tests.lab.until import eventually
from tests.unit.media.test_attestor import SECURE, ScriptedDriver, always, never
from tests.unit.test_node_fields import fleet

__all__ = ["fleet"]

CONFIG = NodeConfig(
    Kind.ASTERISK, "east", "127.0.0.1:5060", "127.0.0.1:5038", "secret", calls_max=9
)


class Node:
    """A PBX over all links to it. drains: what each drain does, the last one again and again."""

    def __init__(self) -> None:
        self.calls: list[CallTruth] = []
        self.answer: Callable[[str], Awaitable[Sequence[Security]]] = always(SECURE)
        self.links: list[ScriptedLink] = []
        self.drained = 0
        self.drains: list[Callable[[], Awaitable[None]]] = [_nothing]
        self.lists_phones = True
        self.resumed = 0
        self.recorded: list[str] = []
        self.there = True

    def new(self, config: NodeConfig, secret: str) -> ScriptedLink:
        self.links.append(ScriptedLink(self))
        return self.links[-1]

    @property
    def hung_up(self) -> list[tuple[str, int]]:
        return [each for link in self.links for each in link.hung_up]


async def _nothing() -> None: ...


async def _for_ever() -> None:
    await asyncio.Event().wait()


class ScriptedLink(ScriptedDriver):
    def __init__(self, node: Node) -> None:
        super().__init__(node.answer)
        self.node = node
        self.lost = asyncio.Event()

    async def connect(self) -> NodeFacts:
        if not self.node.there:
            raise LinkLost("no route")
        return NodeFacts(Kind.ASTERISK, "22.10.0", 1.0)

    async def watch(self) -> AsyncIterator[Sequence[NodeEvent]]:
        await self.lost.wait()
        raise LinkLost("torn off")
        yield []

    async def truth(self) -> Sequence[CallTruth]:
        return self.node.calls

    async def drain(self) -> None:
        self.node.drained += 1
        await self.node.drains[min(self.node.drained, len(self.node.drains)) - 1]()

    async def resume(self) -> None:
        self.node.resumed += 1

    async def start_recording(self, pbx_id: str, path: str, rate_hz: int, on_end: str) -> str:
        self.node.recorded.append(path)
        return pbx_id

    async def stop_recording(self, leg: str, path: str) -> None:
        self.node.recorded.append(path)

    async def phones(self) -> Sequence[PhoneRegistered]:
        if not self.node.lists_phones:
            raise CommandRefused("PJSIPShowContacts: the PBX refused: Permission denied")
        return []


async def claimed(fleet: Fleet, owner: str = "d") -> Lease:
    return (await fleet.claim(owner, 60_000, ["a"]))[0]


@asynccontextmanager
async def working(
    fleet: Fleet, node: Node, folder: Path, lease: Lease, demands: Demands | None = None
) -> AsyncIterator[Worker]:
    secret = folder / "secret"
    secret.write_text("x")
    secret.chmod(0o600)

    def judged(legs: Sequence[Security] | None, waited_s: float) -> Ruling:
        assert demands
        return judge(demands, legs, waited_s)

    worker = Worker(
        fleet, lease, CONFIG, secret, OptionsProbe(), "d", node.new, judged if demands else None
    )
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def state_of(fleet: Fleet, command_id: str) -> str:
    raw = await fleet.result(command_id, 4)
    return commands.decode_result(raw).state if raw else ""


async def test_a_command_that_the_link_was_lost_under_is_carried_out_on_the_next(
    fleet: Fleet, tmp_path: Path
) -> None:
    node = Node()
    node.drains = [_for_ever, _nothing]
    async with working(fleet, node, tmp_path, await claimed(fleet)):
        await fleet.command("a", "c", commands.encode(commands.Drain()), True)
        await eventually(lambda: node.drained == 1, 3, "it is being carried out")
        node.links[0].lost.set()
        assert await state_of(fleet, "c") == "done"
    assert node.drained == 2


async def test_an_outbound_call_that_the_link_was_lost_under_is_told_to_be_unknown(
    fleet: Fleet, tmp_path: Path
) -> None:
    node = Node()
    node.drains = [_for_ever]
    async with working(fleet, node, tmp_path, await claimed(fleet)):
        await fleet.command("a", "c", commands.encode(commands.Drain()), False)
        await eventually(lambda: node.drained == 1, 3, "it is being carried out")
        node.links[0].lost.set()
        assert await state_of(fleet, "c") == "unknown"
    assert node.drained == 1


@pytest.mark.parametrize("how", ["lost reply", "lost driver"])
async def test_a_command_that_was_taken_and_not_carried_out_waits_for_no_other(
    fleet: Fleet, tmp_path: Path, how: str
) -> None:
    lease = await claimed(fleet, "d" if how == "lost reply" else "doomed")
    await fleet.command("a", "c", commands.encode(commands.Drain()), True)
    assert await fleet.take(lease)
    if how == "lost driver":
        await fleet.release("doomed", ["a"])
        lease = await claimed(fleet)
    node = Node()
    async with working(fleet, node, tmp_path, lease):
        assert await state_of(fleet, "c") == "done"


async def test_the_end_of_a_command_is_told_again_and_not_the_command_carried_out_again(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, lost = fleet.done, list[str]()

    async def loses_the_first(lease: Lease, command_id: str, result: bytes) -> None:
        if not lost:
            lost.append(command_id)
            raise FleetUnreachable("no answer")
        await done(lease, command_id, result)

    monkeypatch.setattr(fleet, "done", loses_the_first)
    node = Node()
    async with working(fleet, node, tmp_path, await claimed(fleet)):
        await fleet.command("a", "c", commands.encode(commands.Drain()), True)
        assert await state_of(fleet, "c") == "done"
    assert lost == ["c"]
    assert node.drained == 1


async def test_a_node_that_is_draining_drains_under_its_next_driver_too(
    fleet: Fleet, tmp_path: Path
) -> None:
    """Both were started again: the PBX has forgotten it, and the driver has not heard of it."""
    node, lease = Node(), await claimed(fleet)
    async with working(fleet, node, tmp_path, lease):
        await eventually(lambda: node.links, 3, "linked")
        await asyncio.sleep(0.5)
        await fleet.want("a", "draining")
    assert not node.drained
    async with working(fleet, node, tmp_path, lease):
        await eventually(lambda: node.drained, 3, "drained")


async def test_a_node_that_is_resumed_while_its_link_is_lost_takes_calls_again(
    fleet: Fleet, tmp_path: Path
) -> None:
    node = Node()
    async with working(fleet, node, tmp_path, await claimed(fleet)):
        await eventually(lambda: node.links, 3, "linked")
        await asyncio.sleep(0.5)
        await fleet.want("a", "draining")
        await asyncio.sleep(0.5)
        node.there = False
        node.links[0].lost.set()
        await eventually(lambda: len(node.links) > 2, 5, "tried again")
        await fleet.want("a", "active")
        assert not node.resumed
        node.there = True
        await eventually(lambda: node.resumed, 5, "resumed")


async def test_a_pbx_that_does_not_list_its_phones_stays_linked(
    fleet: Fleet, tmp_path: Path
) -> None:
    node = Node()
    node.lists_phones = False
    async with working(fleet, node, tmp_path, await claimed(fleet)):
        await eventually(lambda: node.links, 3, "linked")
        await asyncio.sleep(1.5)
        assert len(node.links) == 1


async def test_a_node_that_was_silent_over_a_lost_link_keeps_its_calls(
    fleet: Fleet, tmp_path: Path
) -> None:
    node = Node()
    node.calls = [CallTruth("1", answered=True)]
    demands = Demands("require", "require", {})
    async with working(fleet, node, tmp_path, await claimed(fleet), demands):
        await eventually(lambda: node.links and node.links[0].asked, 3, "asked about")
        await asyncio.sleep(0.3)
        node.answer = never
        node.links[0].lost.set()
        await eventually(lambda: len(node.links) > 1 and node.links[1].asked, 3, "asked again")
        await asyncio.sleep(1.5)
    assert not node.hung_up


async def test_a_command_that_fails_unforeseen_does_not_cost_the_link(
    fleet: Fleet, tmp_path: Path
) -> None:
    async def fails() -> None:
        raise KeyError(11_025)

    node = Node()
    node.drains = [fails]
    async with working(fleet, node, tmp_path, await claimed(fleet)):
        await fleet.command("a", "c", commands.encode(commands.Drain()), True)
        assert await state_of(fleet, "c") == "unknown"
        assert len(node.links) == 1


FOLDER = RecordingsConfig().folder
FILE = f"{FOLDER}/a/{32 * 'a'}.raw"


@pytest.mark.parametrize(
    ("order", "state"),
    [
        (commands.StopRecording("l", FILE), "done"),
        (commands.StartRecording("l", FILE, 8000, "/etc/freeswitch/pbxctl-recorded.lua"), "done"),
        (commands.StopRecording("l", f"{FOLDER}/b/{32 * 'a'}.raw"), "failed"),
        (commands.StopRecording("l", f"{FOLDER}/a/../b/{32 * 'a'}.raw"), "failed"),
        (commands.StartRecording("l", "/etc/passwd", 8000), "failed"),
        (commands.StartRecording("l", FILE, 8000, "~os.execute('id')"), "failed"),
        (commands.StartRecording("l", FILE, 8000, "/tmp/../x/pbxctl-recorded.lua"), "failed"),
        (commands.Hangup("l"), "failed"),
    ],
)
async def test_an_order_that_an_agent_may_write_does_nothing_but_record(
    fleet: Fleet, tmp_path: Path, order: commands.NodeCommand, state: str
) -> None:
    node = Node()
    async with working(fleet, node, tmp_path, await claimed(fleet)):
        await fleet.command("a", "rec-1", commands.encode(order), True)
        assert await state_of(fleet, "rec-1") == state
    assert node.recorded == ([order.path] if state == "done" else [])  # type: ignore[union-attr]
    assert not node.hung_up
