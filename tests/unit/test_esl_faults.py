"""Each fault of stock greenswitch 0.0.19, shown on the stock library and absent from ours.

The stock library runs in a process of its own, since it hangs or spins; it prints what it saw.
Should a later greenswitch mend one of these, its test fails and our override may go.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gevent
import pytest

from controller.errors import (
    DeadlineExceeded,
    LinkLost,
    LoginRefused,
    ProtocolViolation,
    UsageError,
)
from controller.pbx.esl import EslLink
from controller.pbx.esl_frames import EslEvent
from controller.pbx.hub import GreenHub
from tests.contract.case import until
from tests.esl_server import EslServer, frame, plain, reply

HUNG = "hung"

# `esl` is connected before a probe's own lines run, except where a probe is about connecting.
PRELUDE = f"""
import sys, logging, gevent, gevent.socket
from greenswitch import InboundESL
logging.disable()
sys.stderr = open("/dev/null", "w")
seen = []
esl = InboundESL(sys.argv[1], int(sys.argv[2]), "secret")
def event(e): seen.append(e)
esl.register_handle("*", event)
def limited(job, *args, s=1.0):
    try:
        with gevent.Timeout(s): return job(*args)
    except gevent.Timeout: return "{HUNG}"
    except Exception as error: return type(error).__name__
def tell(*what): print(*what, flush=True)
"""
CONNECT = "esl.connect(); tell('up')\n"


def stock(server: EslServer, probe: str, act: Callable[[], None] | None = None) -> str:
    """Runs the probe; `act` runs once the probe says "up". Its last line, or `spins`."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + probe, server.host, str(server.port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        if act is not None:
            assert process.stdout.readline() == "up\n"
            act()
        out, _ = process.communicate(timeout=8)
        return out.strip().splitlines()[-1]
    except subprocess.TimeoutExpired:
        return "spins"
    finally:
        process.kill()
        process.wait()


class Link:
    """Our link to a server, used from asyncio."""

    def __init__(self, hub: GreenHub, server: EslServer, *, timeout: float = 2.0) -> None:
        self.hub = hub
        self.events: list[EslEvent] = []
        self.lost: list[Exception] = []
        self.dropped: list[int] = []
        self.esl = EslLink(
            server.host,
            server.port,
            "secret",
            timeout,
            on_events=self.events.extend,
            on_lost=self.lost.append,
            on_dropped=self.dropped.append,
        )

    async def connect(self) -> Link:
        await self.hub.run(self.esl.connect)
        return self

    async def send(self, line: str, deadline_s: float = 2.0) -> str:
        return (await self.hub.run(self.esl.send, line, deadline_s)).data

    async def got(self, count: int = 1) -> Sequence[EslEvent]:
        await until(lambda: len(self.events) >= count, 3, lambda: f"lost: {self.lost}")
        return self.events

    async def gone(self) -> Exception:
        await until(lambda: self.lost, 3)
        (error,) = self.lost
        return error


@pytest.fixture(scope="module")
def hub() -> Iterator[GreenHub]:
    hub = GreenHub()
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def server() -> Iterator[EslServer]:
    with EslServer() as server:
        yield server


FORGED = plain("Event-Name: A", "Name: x%0AUnique-ID: forged")
PROBE_ID = CONNECT + "gevent.sleep(0.7); tell(seen[0].headers.get('Unique-ID'))"


@pytest.mark.parametrize("data", [FORGED, plain("Event-Name: A", "N: x\u2028Unique-ID: forged")])
async def test_forged_header(hub: GreenHub, server: EslServer, data: bytes) -> None:
    assert stock(server, PROBE_ID, lambda: server.push(data)) == "forged"
    link = await Link(hub, server).connect()
    server.push(data)
    assert (await link.got())[0].headers.get("Unique-ID") is None


async def test_job_body_as_headers(hub: GreenHub, server: EslServer) -> None:
    data = plain("Event-Name: BACKGROUND_JOB", "Job-UUID: j", tail=b"Unique-ID: forged\n")
    assert stock(server, PROBE_ID, lambda: server.push(data)) == "forged"
    link = await Link(hub, server).connect()
    server.push(data)
    (event,) = await link.got()
    assert (event.get("Unique-ID"), event.body) == ("", "Unique-ID: forged\n")


async def test_event_json(hub: GreenHub, server: EslServer) -> None:
    data = frame("text/event-json", b'{"Event-Name":"A","Unique-ID":"u: 1"}')
    assert stock(server, PROBE_ID, lambda: server.push(data)) == "None"
    link = await Link(hub, server).connect()
    server.push(data)
    assert (await link.got())[0].get("Unique-ID") == "u: 1"


async def test_end_inside_a_body(hub: GreenHub, server: EslServer) -> None:
    def half_a_body() -> None:
        server.push(b"Content-Length: 100\nContent-Type: text/event-plain\n\nEvent")
        server.cut()

    assert stock(server, CONNECT + "gevent.sleep(1); tell('alive')", half_a_body) == "spins"
    link = await Link(hub, server).connect()
    half_a_body()
    error = await link.gone()
    assert isinstance(error, LinkLost)
    assert "inside a frame" in str(error)


@pytest.mark.parametrize(
    "data",
    [
        frame("text/event-plain", b"Event-Name: A\nName: M\xfcller\n\n"),
        frame("text/event-plain", b"nonsense\nEvent-Name: A\n\n"),
    ],
    ids=["not UTF-8", "no colon"],
)
async def test_a_bad_event(hub: GreenHub, server: EslServer, data: bytes) -> None:
    probe = CONNECT + "gevent.sleep(0.7); tell(esl.connected, limited(esl.send, 'api uptime'))"
    assert stock(server, probe, lambda: server.push(data)) == f"True {HUNG}"
    link = await Link(hub, server).connect()
    server.push(data)
    assert (await link.got())[0].get("Event-Name") == "A"
    assert await link.send("api uptime") == "3723\n"
    assert link.esl.bad_events == (1 if b"nonsense" in data else 0)


async def test_send_without_an_answer(hub: GreenHub, server: EslServer) -> None:
    server.on_command = lambda text: b"" if "stuck" in text else None
    assert stock(server, CONNECT + "tell(limited(esl.send, 'api stuck', s=2))") == HUNG
    link = await Link(hub, server).connect()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await link.send("api stuck", 0.3)
    assert time.monotonic() - started < 1


async def test_commands_pending_when_the_socket_dies(hub: GreenHub, server: EslServer) -> None:
    server.on_command = lambda text: b"" if "stuck" in text else None
    probe = CONNECT + "tell(limited(esl.send, 'api stuck', s=3))"

    def cut_when_asked() -> None:
        while "api stuck" not in server.commands:
            time.sleep(0.01)
        server.cut()

    assert stock(server, probe, cut_when_asked) == HUNG
    server.commands.clear()
    link = await Link(hub, server).connect()
    asked = asyncio.create_task(link.send("api stuck", 30))
    job = await hub.run(link.esl.bgapi, "originate x")
    await asyncio.to_thread(cut_when_asked)
    with pytest.raises(LinkLost):
        await asyncio.wait_for(asked, 2)
    with pytest.raises(LinkLost):
        await asyncio.wait_for(hub.run(job.result.get), 2)


async def test_connect_to_a_silent_server(hub: GreenHub) -> None:
    with EslServer(greeting=b"") as server:
        assert stock(server, "tell(limited(esl.connect, s=2))") == HUNG
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await Link(hub, server, timeout=0.3).connect()
        assert time.monotonic() - started < 1


async def test_partial_send(hub: GreenHub) -> None:
    """A command larger than the socket's buffers, to a server that is slow to read."""
    size = 20_000_000
    line = "api uptime " + "x" * size
    with EslServer(deaf=True) as server:
        probe = CONNECT + f"limited(esl.send, 'x' * {size}, s=3); tell('sent')"
        assert stock(server, probe) == "sent"
        assert server.drain() < size
    with EslServer() as server:
        link = await Link(hub, server).connect()
        assert await link.send(line, 20) == "3723\n"
        assert len(server.commands[-1]) == len(line)


async def test_a_command_cut_midway_ends_the_link(hub: GreenHub) -> None:
    with EslServer(deaf=True) as server:
        link = await Link(hub, server).connect()
        with pytest.raises(DeadlineExceeded):
            await link.send("x" * 20_000_000, 0.5)
        assert isinstance(await link.gone(), LinkLost)


async def test_ipv6(hub: GreenHub) -> None:
    with EslServer(address="::1") as server:
        assert stock(server, "tell(limited(esl.connect))") not in ("None", HUNG)
        link = await Link(hub, server).connect()
        assert await link.send("api uptime") == "3723\n"


async def test_second_connect_of_one_object(hub: GreenHub, server: EslServer) -> None:
    probe = CONNECT + "esl.stop(); tell(limited(esl.connect, s=3))"
    assert stock(server, probe) == HUNG
    link = await Link(hub, server).connect()
    await hub.run(link.esl.stop)
    with pytest.raises(LinkLost):
        await link.connect()


async def test_wrong_password_is_refused_once(hub: GreenHub) -> None:
    with EslServer(password="other") as server:
        with pytest.raises(LoginRefused):
            await Link(hub, server).connect()
        assert [c for c in server.commands if c.startswith("auth")] == ["auth secret"]


async def test_rude_rejection(hub: GreenHub) -> None:
    greeting = frame("text/rude-rejection", b"Access Denied, go away.\n")
    with EslServer(greeting=greeting) as server, pytest.raises(LoginRefused):
        await Link(hub, server).connect()


@pytest.mark.parametrize("text", ["api x\n\napi fsctl shutdown", "api x\r", "api \0x"])
async def test_nothing_with_cr_lf_nul_goes_out(hub: GreenHub, server: EslServer, text: str) -> None:
    link = await Link(hub, server).connect()
    for job in (link.esl.send, link.esl.api, link.esl.bgapi):
        with pytest.raises(UsageError):
            await hub.run(job, text)
    with pytest.raises(UsageError):
        await hub.run(link.esl.pipeline, ["uptime", text])
    assert await link.send("api uptime") == "3723\n"
    assert not [c for c in server.commands if "shutdown" in c or "\0" in c or "\r" in c]


async def test_a_late_reply_is_nobodys(hub: GreenHub, server: EslServer) -> None:
    server.on_command = lambda text: b"" if "late" in text else None
    link = await Link(hub, server).connect()
    with pytest.raises(DeadlineExceeded):
        await link.send("api late", 0.2)
    asked = asyncio.create_task(link.send("api second", 3))
    server.on_command = lambda text: b""
    await until(lambda: "api second" in server.commands)
    server.push(frame("api/response", b"LATE") + frame("api/response", b"SECOND"))
    assert await asked == "SECOND"


async def test_a_reply_to_nothing_ends_the_link(hub: GreenHub, server: EslServer) -> None:
    link = await Link(hub, server).connect()
    server.push(reply("+OK"))
    assert isinstance(await link.gone(), ProtocolViolation)


async def test_disconnect_notice(hub: GreenHub, server: EslServer) -> None:
    link = await Link(hub, server).connect()
    notice = frame("text/disconnect-notice", b"killed listener because of lost events\n")
    server.push(plain("Event-Name: A") + notice)
    assert "lost events" in str(await link.gone())
    assert len(link.events) == 1


async def test_lost_events_are_told(hub: GreenHub, server: EslServer) -> None:
    link = await Link(hub, server).connect()
    line = b"2026-11-23 [CRIT] mod_event_socket.c:389 Lost [12] events! Event Queue size: [1/2]\n"
    server.push(frame("log/data", line, "Log-Level: 2\nLog-File: sofia.c\n"))
    server.push(frame("log/data", line, "Log-Level: 2\nLog-File: mod_event_socket.c\n"))
    await until(lambda: link.dropped)
    assert link.dropped == [12]


async def test_an_early_job_result_finds_its_waiter(hub: GreenHub, server: EslServer) -> None:
    def early(text: str) -> bytes | None:
        if not text.startswith("bgapi"):
            return None
        job = text.rpartition("Job-UUID: ")[2]
        done = plain("Event-Name: BACKGROUND_JOB", f"Job-UUID: {job}", tail=b"+OK done\n")
        return done + reply(f"+OK Job-UUID: {job}")

    server.on_command = early
    link = await Link(hub, server).connect()
    job = await hub.run(link.esl.bgapi, "status")
    assert await hub.run(job.result.get) == "+OK done\n"
    server.push(plain("Event-Name: BACKGROUND_JOB", "Job-UUID: of-another"))
    assert (await link.got())[0].get("Job-UUID") == "of-another"


class Flood:
    """A socket whose bytes never run out, until they do."""

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks

    def recv(self, _: int) -> bytes:
        self.chunks -= 1
        return plain("Event-Name: A") if self.chunks >= 0 else b""

    def close(self) -> None:
        pass


async def test_a_flood_lets_other_links_run(hub: GreenHub) -> None:
    def flood() -> int:
        turns = 0
        link = EslLink("", 0, "", on_events=lambda _: None)
        link.attach(Flood(1000))
        while link.connected:
            gevent.sleep(0)
            turns += 1
        return turns

    assert await hub.run(flood) > 500


def test_nothing_is_monkey_patched() -> None:
    code = (
        "import socket, threading, time, controller.pbx.freeswitch, gevent.monkey as m;"
        "assert not m.saved, m.saved"
    )
    root = Path(__file__).parent.parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=20)
