"""A list of 50,000 channels: complete, in time, and without stalling the loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from controller.errors import ProtocolViolation
from controller.pbx import ami
from controller.pbx.ami import Link
from controller.pbx.ami_message import Received
from controller.pbx.asterisk import AsteriskDriver

ROWS = 50_000
STALL_MAX_S = 0.05
ROW = (
    b"Event: CoreShowChannel\r\nActionID: %s\r\nChannel: PJSIP/trunk-%08d\r\nChannelState: 6\r\n"
    b"ChannelStateDesc: Up\r\nCallerIDNum: 4930111\r\nCallerIDName: x\r\nConnectedLineNum: 1\r\n"
    b"ConnectedLineName: x\r\nLanguage: en\r\nAccountCode: \r\nContext: services\r\n"
    b"Exten: wait\r\nPriority: 3\r\nUniqueid: 1795449053.%d\r\nLinkedid: 1795449053.%d\r\n"
    b"ChanVariable: PBXCTL_PLACEMENT=pl-%d\r\nApplication: Wait\r\nApplicationData: 60\r\n"
    b"Duration: 00:00:01\r\nBridgeId: \r\n\r\n"
)


class Node(threading.Thread):
    """Asterisk enough to log in to, in a thread so that it takes no time of the loop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.rows = 0

    def run(self) -> None:
        with contextlib.suppress(OSError):
            link, _ = self.listener.accept()
            link.sendall(b"Asterisk Call Manager/11.0.0\r\n")
            buffer = b""
            while data := link.recv(4096):
                *actions, buffer = (buffer + data).split(b"\r\n\r\n")
                for action in actions:
                    link.sendall(self.answer(action))

    def answer(self, action: bytes) -> bytes:
        name = re.search(rb"Action: (\w+)", action)[1]  # type: ignore[index]
        key = re.search(rb"ActionID: (\w+)", action)[1]  # type: ignore[index]
        answer = b"Response: Success\r\nActionID: %s\r\nChallenge: 1\r\n\r\n" % key
        if name == b"Login":
            answer += b"Event: FullyBooted\r\nUptime: 1\r\n\r\n"
        if name == b"CoreShowChannels":
            answer += b"".join(ROW % (key, n, n, n, n) for n in range(self.rows))
            answer += b"Event: CoreShowChannelsComplete\r\nActionID: %s\r\n\r\n" % key
        return answer


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    made.start()
    yield made
    made.listener.close()


async def test_fifty_thousand_rows_do_not_stall_the_loop(node: Node) -> None:
    driver = AsteriskDriver("127.0.0.1", node.port, "u", "s")
    await driver.connect()
    node.rows = ROWS
    gaps: list[float] = []

    async def tick() -> None:
        then = time.thread_time()
        while True:
            await asyncio.sleep(0)
            # CPU time of this thread: what other processes of the machine do is not our stall
            gaps.append((now := time.thread_time()) - then)
            then = now

    gc.collect()
    ticker = asyncio.create_task(tick())
    calls = await driver.truth()
    ticker.cancel()
    assert len(calls) == ROWS
    assert calls[7].placement == "pl-7"
    assert max(gaps) < STALL_MAX_S
    await driver.close()


async def test_a_list_has_a_cap(node: Node) -> None:
    link = Link("127.0.0.1", node.port, on_lost=lambda _: None)
    await link.connect("u", "s")
    node.rows = ami.ROWS_MAX + 1
    seen: list[Received] = []
    with pytest.raises(ProtocolViolation):
        await link.ask_list("CoreShowChannels", "CoreShowChannel", seen.append)
    assert len(seen) == ami.ROWS_MAX
    assert link.error is None  # the command failed, the link stays
    await link.ask("Ping", deadline_s=30.0)
    link.close()
