"""Every fault of panoramisk 1.4 that matters to us: shown on the stock library, absent in ours.

Each test does the same to both, and asks whether the fault was seen. On the stock library it must
be seen, or the test would prove nothing; on ours it must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from panoramisk.manager import Manager

from controller.errors import DeadlineExceeded, LinkLost, LoginRefused, PbxctlError, UsageError
from controller.pbx.ami import Link
from controller.pbx.ami_message import Received
from tests.contract.ami_wire import DATA, Replay
from tests.contract.case import until

HOST = "127.0.0.1"
EVENT = b"Event: Newchannel\r\nUniqueid: %s\r\n\r\n"


class Client(ABC):
    """The verbs that both libraries have. `faulty`: whether the fault is expected."""

    faulty: bool

    def __init__(self, port: int) -> None:
        self.port = port
        self.events: list[str] = []  # Uniqueids of Newchannel

    @abstractmethod
    async def connect(self) -> None: ...

    @abstractmethod
    def send(self, **fields: str) -> asyncio.Future[Any]:
        """Sends an action; the future ends as the library ends it."""

    @abstractmethod
    def on(self, name: str, callback: Callable[[Any, Any], object]) -> None: ...

    @abstractmethod
    def list(self) -> asyncio.Future[Any]: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def knows_it_is_lost(self) -> bool: ...


class Stock(Client):
    faulty = True

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.lost = 0
        self.manager = Manager(
            host=HOST, port=port, username="u", secret="s", loop=asyncio.get_running_loop(),
            ping_delay=1, ping_interval=1, reconnect_timeout=0, on_disconnect=self._on_disconnect,
            log=logging.getLogger("panoramisk"),
        )  # fmt: skip
        self.manager.register_event("Newchannel", lambda _, e: self.events.append(e.uniqueid))

    def _on_disconnect(self, *_: object) -> None:
        self.lost += 1

    async def connect(self) -> None:
        await self.manager.connect()
        await until(lambda: self.manager.authenticated, 5)

    def send(self, **fields: str) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.manager.send_action(fields)
        return future

    def on(self, name: str, callback: Callable[[Any, Any], object]) -> None:
        self.manager.register_event(name, callback)

    def list(self) -> asyncio.Future[Any]:
        return self.send(Action="CoreShowChannels")

    def close(self) -> None:
        self.manager.close()

    def knows_it_is_lost(self) -> bool:
        return self.lost > 0


class Ours(Client):
    faulty = False

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.lost: list[PbxctlError] = []
        self.link = Link(HOST, port, on_lost=self.lost.append)
        self.link.register_event(
            "Newchannel", lambda _, e: self.events.append(e.headers["Uniqueid"])
        )

    async def connect(self) -> None:
        await self.link.connect("u", "s")

    def send(self, **fields: str) -> asyncio.Future[Any]:
        action = fields.pop("Action")
        return asyncio.ensure_future(self.link.ask(action, deadline_s=1.0, **fields))

    def on(self, name: str, callback: Callable[[Any, Any], object]) -> None:
        self.link.register_event(name, callback)

    def list(self) -> asyncio.Future[Any]:
        return asyncio.ensure_future(
            self.link.ask_list(
                "CoreShowChannels", "CoreShowChannel", lambda _: None, deadline_s=1.0
            )
        )

    def close(self) -> None:
        self.link.close()

    def knows_it_is_lost(self) -> bool:
        return bool(self.lost)


@pytest.fixture
async def peer() -> AsyncIterator[Replay]:
    """An Asterisk, as recorded; `silent` actions get no answer."""
    made = Replay(DATA / "session.txt")
    await made.start(HOST)
    yield made
    await made.stop()


@pytest.fixture(params=[Stock, Ours])
async def client(request: pytest.FixtureRequest, peer: Replay) -> AsyncIterator[Client]:
    made: Client = request.param(peer.port)
    yield made
    made.close()
    await peer.stop()  # before the stock one connects again
    if isinstance(made, Stock):
        made.manager.connect = lambda *_: None  # it would retry for ever


def swallow(*names: str) -> Callable[[Received, Replay], bool]:
    """The node takes these actions and never answers."""
    return lambda action, _: action.headers["Action"] in names


def sent(peer: Replay, name: str) -> int:
    return sum(action.headers.get("Action") == name for action in peer.actions)


async def hears(client: Client, peer: Replay, uniqueid: str) -> bool:
    """Whether an event still gets through on the link that was open."""
    if client.knows_it_is_lost():
        return False
    peer.send(EVENT % uniqueid.encode())
    with contextlib.suppress(AssertionError):
        await until(lambda: uniqueid in client.events, 0.5)
    return uniqueid in client.events and not client.knows_it_is_lost()


@pytest.mark.parametrize("fields", [{}, {"Command": "x"}], ids=["plain", "Command"])
async def test_a_pending_action_is_sent_again_after_a_reconnect(
    client: Client, peer: Replay, fields: dict[str, str]
) -> None:
    peer.intercept = swallow("Originate")
    await client.connect()
    future = client.send(Action="Originate", Channel="PJSIP/1", **fields)
    await until(lambda: sent(peer, "Originate") == 1)
    peer.drop()
    with contextlib.suppress(AssertionError):
        await until(lambda: sent(peer, "Originate") > 1, 1.0)
    assert (sent(peer, "Originate") > 1) is client.faulty
    if not client.faulty:
        with pytest.raises(LinkLost):
            await future


@pytest.mark.parametrize("glue", ["\r\n\r\n", "\r\n", "\n", "\r", "\0"])
async def test_line_breaks_in_a_value_go_out(client: Client, peer: Replay, glue: str) -> None:
    await client.connect()
    value = f"x{glue}Action: Command{glue}Command: core stop now\r\n"
    try:
        await asyncio.wait_for(client.send(Action="Getvar", Variable=value), 1.0)
    except UsageError:
        refused = True
    except (TimeoutError, PbxctlError):
        refused = False
    else:
        refused = False
    assert refused is not client.faulty
    assert any(a.headers["Action"] == "Getvar" for a in peer.actions) is client.faulty
    if glue == "\r\n\r\n":
        assert (sent(peer, "Command") == 1) is client.faulty


async def test_a_frozen_node_stays_connected(client: Client, peer: Replay) -> None:
    await client.connect()
    peer.frozen = True
    await asyncio.sleep(1.5)
    if isinstance(client, Ours):
        assert client.link.silence_s() > 1.0
        assert sent(peer, "Ping") >= 1
    else:
        assert isinstance(client, Stock)
        # Two pings went unanswered, and nothing in the library tells.
        await until(lambda: sent(peer, "Ping") >= 2, 3)
        assert client.manager._connected
        assert not client.knows_it_is_lost()


async def test_a_list_cut_midway_never_ends(client: Client, peer: Replay) -> None:
    def cut(action: Received, peer: Replay) -> bool:
        if action.headers["Action"] != "CoreShowChannels":
            return False
        head = b"ActionID: %s\r\n" % action.headers["ActionID"].encode()
        peer.send(
            b"Response: Success\r\n" + head + b"EventList: start\r\n"
            b"Message: Channels will follow\r\n\r\n"
        )
        peer.send(b"Event: CoreShowChannel\r\n" + head + b"Channel: x\r\n\r\n")
        return True

    peer.intercept = cut
    await client.connect()
    future = client.list()
    done, _ = await asyncio.wait([future], timeout=2.0)
    assert (not done) is client.faulty
    if done:
        assert isinstance(future.exception(), PbxctlError)


async def test_a_callback_that_raises_costs_the_link(client: Client, peer: Replay) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("from a callback")

    client.on("Newstate", fail)
    await client.connect()
    peer.send(b"Event: Newstate\r\nUniqueid: 1\r\n\r\n")
    assert (not await hears(client, peer, "after")) is client.faulty


async def test_a_repeated_event_header_costs_the_link(client: Client, peer: Replay) -> None:
    await client.connect()
    peer.send(b"Event: UserEvent\r\nEvent: Newchannel\r\nUniqueid: forged\r\n\r\n")
    assert (not await hears(client, peer, "after")) is client.faulty
    assert "forged" not in client.events


async def test_queued_without_async_costs_the_link(client: Client, peer: Replay) -> None:
    def queued(action: Received, peer: Replay) -> bool:
        head = b"Response: Success\r\nActionID: %s\r\n" % action.headers["ActionID"].encode()
        if action.headers["Action"] == "Originate":
            peer.send(head + b"Message: Originate successfully queued\r\n\r\n")
        return action.headers["Action"] == "Originate"

    peer.intercept = queued
    await client.connect()
    future = client.send(Action="Originate", Channel="PJSIP/1")
    await asyncio.wait([future], timeout=1.0)
    assert (not await hears(client, peer, "after")) is client.faulty


async def test_an_event_with_a_pending_action_id_is_swallowed(client: Client, peer: Replay) -> None:
    ids: list[str] = []

    def forge(action: Received, peer: Replay) -> bool:
        if action.headers["Action"] == "Originate":
            ids.append(action.headers["ActionID"])
        return action.headers["Action"] == "Originate"

    peer.intercept = forge
    await client.connect()
    future = client.send(Action="Originate", Channel="PJSIP/1", Async="true")
    await until(lambda: ids)
    peer.send(b"Event: Newchannel\r\nUniqueid: forged\r\nActionID: %s\r\n\r\n" % ids[0].encode())
    await asyncio.wait([future], timeout=0.3)
    assert ("forged" not in client.events) is client.faulty
    assert future.done() is client.faulty  # and it must not pass for the answer


async def test_action_ids_can_be_guessed(client: Client, peer: Replay) -> None:
    await client.connect()
    for _ in range(3):
        await client.send(Action="CoreSettings")
    ids = [a.headers["ActionID"] for a in peer.actions if a.headers["Action"] == "CoreSettings"]
    following = {each.rpartition("/")[0] for each in ids}
    assert (len(following) == 1 and following != {""}) is client.faulty


async def test_a_wrong_password_is_tried_for_ever(client: Client, peer: Replay) -> None:
    peer.refuse_login = True
    if isinstance(client, Ours):
        with pytest.raises(LoginRefused):
            await client.connect()
    else:
        assert isinstance(client, Stock)
        client.manager.connect()
    with contextlib.suppress(AssertionError):
        await until(lambda: sent(peer, "Login") > 2, 1.0)
    assert (sent(peer, "Login") > 2) is client.faulty


async def test_it_connects_again_after_close(client: Client, peer: Replay) -> None:
    await client.connect()
    peer.drop()
    await until(client.knows_it_is_lost, 2)
    client.close()
    with contextlib.suppress(AssertionError):
        await until(lambda: sent(peer, "Login") > 1, 1.0)
    assert (sent(peer, "Login") > 1) is client.faulty


async def test_a_message_without_end_is_kept_for_ever(client: Client, peer: Replay) -> None:
    await client.connect()
    peer.send(b"Event: Newchannel\r\nUniqueid: " + b"9" * 1_000_000)
    with contextlib.suppress(AssertionError):
        await until(client.knows_it_is_lost, 1.0)
    assert client.knows_it_is_lost() is not client.faulty


async def test_a_character_cut_by_the_network_is_lost(client: Client, peer: Replay) -> None:
    await client.connect()
    before, after = (EVENT % "Zoë".encode()).split(b"\xab")
    peer.send(before)
    await asyncio.sleep(0.1)  # two segments
    peer.send(b"\xab" + after)
    await until(lambda: client.events)
    assert (client.events != ["Zoë"]) is client.faulty


async def test_a_node_that_does_not_read_fills_the_memory() -> None:
    """Ours alone: the stock library looks at its write buffer nowhere."""
    server = await asyncio.start_server(lambda *_: None, HOST, 0)
    link = Link(HOST, server.sockets[0].getsockname()[1], on_lost=lambda _: None)
    connecting = asyncio.create_task(link.connect("u", "s"))
    await until(lambda: link.protocol is not None)
    link.protocol.transport.pause_reading()
    with pytest.raises(LinkLost):
        for _ in range(100):
            link.protocol.transport.write(b"x" * 1_000_000)
            with contextlib.suppress(DeadlineExceeded):
                await link.ask("Ping", deadline_s=0.01)
    with pytest.raises(PbxctlError):
        await connecting
    server.close()
