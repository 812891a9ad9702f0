"""Real AMI sessions on disk: a proxy that records them and a server that replays them.

A recording is text. `= name` opens a section, `> ` is a line from the client, `< ` one from
Asterisk, an empty line ends a message. CR LF is left out, non-ASCII and backslashes are escaped.
Keys of logins are not kept.

The replay answers an action with what Asterisk answered to it in the current section, or else
before it. Events that no action asked for are sent when their section is played. ActionID and
ChannelId are those of the client that asks.

    python -m tests.contract.record_ami    records tests/data/ami/*.txt anew
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from controller.pbx.ami_message import Received, parse

DATA = Path(__file__).parent.parent / "data" / "ami"
END = b"\r\n\r\n"
#: what tells one action of a name from another
TELLING = ("State", "Module", "Channel", "Variable")


class Recorder:
    """A proxy in front of one Asterisk that writes down what passes."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._lines: list[str] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str) -> int:
        self._server = await asyncio.start_server(self._serve, host, 0)
        return int(self._server.sockets[0].getsockname()[1])

    def section(self, name: str) -> None:
        self._lines.append(f"= {name}")

    def save(self, path: Path) -> None:
        path.write_text("\n".join(self._lines) + "\n")

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        greeting = await up_reader.readline()
        self._lines += [f"< {greeting.decode().strip()}", ""]
        writer.write(greeting)
        for mark, source, sink in ((">", reader, up_writer), ("<", up_reader, writer)):
            task = asyncio.create_task(self._pump(mark, source, sink))
            self._tasks.add(task)

    async def _pump(
        self, mark: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await source.readuntil(END)
                text = message.decode("utf-8", "surrogateescape").removesuffix("\r\n\r\n")
                for line in text.split("\r\n"):
                    kept = "Key: -" if line.startswith("Key: ") else line
                    self._lines.append(f"{mark} {kept.encode('unicode_escape').decode()}")
                self._lines.append("")
                sink.write(message)
        sink.close()


@dataclass
class Exchange:
    request: Received
    answers: list[bytes] = field(default_factory=list)


@dataclass
class Section:
    name: str
    exchanges: list[Exchange] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)


def read(path: Path) -> tuple[bytes, list[Section]]:
    """The greeting and the sections of a recording."""
    greeting, sections, by_id = b"", [Section("connect")], dict[str, Exchange]()
    for block in path.read_text().replace("\n= ", "\n\n= ").split("\n\n"):
        lines = [line for line in block.splitlines() if line]
        while lines and lines[0].startswith("= "):
            sections.append(Section(lines.pop(0)[2:]))
        if not lines:
            continue
        raw = b"\r\n".join(line[2:].encode().decode("unicode_escape").encode() for line in lines)
        if raw.startswith(b"Asterisk Call Manager/"):
            greeting = raw + b"\r\n"
            continue
        message = parse(raw)
        action_id = message.headers.get("ActionID", "")
        if lines[0].startswith("> "):
            by_id[action_id] = Exchange(message)
            sections[-1].exchanges.append(by_id[action_id])
        elif action_id in by_id and message.headers.get("Event") != "OriginateResponse":
            by_id[action_id].answers.append(raw)
        else:
            sections[-1].events.append(raw)
    return greeting, sections


class Replay:
    """A server that plays a recording, to one or more links."""

    def __init__(self, path: Path) -> None:
        self._greeting, self.sections = read(path)
        self._current = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._renamed: dict[bytes, bytes] = {}
        self.port = 0
        self.refuse_login = False  # as Asterisk does: the refusal, then the link closes
        self.frozen = False
        #: everything the client sent, in order, by action
        self.actions: list[Received] = []
        #: called with each action before it is answered; True: the caller answers it
        self.intercept: Callable[[Received, Replay], bool] | None = None

    async def start(self, host: str) -> int:
        self._server = await asyncio.start_server(self._serve, host, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self) -> None:
        self.drop()
        if self._server is not None:
            self._server.close()
            self._server = None
        await asyncio.gather(*self._tasks)
        self._tasks.clear()

    def drop(self) -> None:
        """Every link closes."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    def play(self, name: str) -> None:
        """Makes `name` the current section and sends its events."""
        for number, section in enumerate(self.sections):
            if section.name == name:
                self._current = number
                for event in section.events:
                    self.send(event + END)
                return
        raise KeyError(name)

    def send(self, data: bytes, to: asyncio.StreamWriter | None = None) -> None:
        """To one link, or to all."""
        if self.frozen:
            return
        for old, new in self._renamed.items():
            data = data.replace(old, new)
        for writer in [to] if to is not None else self._writers:
            writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        writer.write(self._greeting)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                raw = await reader.readuntil(END)
                self._answer(parse(raw.removesuffix(END)), writer)

    def _answer(self, action: Received, writer: asyncio.StreamWriter) -> None:
        self.actions.append(action)
        if self.intercept is not None and self.intercept(action, self):
            return
        name = action.headers.get("Action", "")
        action_id = action.headers.get("ActionID", "").encode()
        known = self._find(action)
        if known is None or (name == "Login" and self.refuse_login):
            why = b"Authentication failed" if name == "Login" else b"Invalid/unknown command"
            refusal = b"Response: Error\r\nActionID: %s\r\nMessage: %s" % (action_id, why)
            self.send(refusal + END, writer)
            if name == "Login":
                writer.close()
            return
        if "ChannelId" in action.headers:
            old = known.request.headers["ChannelId"].encode()
            self._renamed[old] = action.headers["ChannelId"].encode()
        self._renamed[known.request.headers["ActionID"].encode()] = action_id
        for answer in known.answers:
            self.send(answer + END, writer)
        if name == "Login":
            for event in self.sections[0].events:
                self.send(event + END, writer)
        elif name in ("Originate", "Hangup"):
            channel = f" {action.headers['Channel']}" if name == "Originate" else ""
            with contextlib.suppress(KeyError):  # the events that follow it, where recorded
                self.play(f"after {name}{channel}")

    def _find(self, action: Received) -> Exchange | None:
        """The same action in the current section, else the last one before it, else any."""
        name = action.headers.get("Action", "")
        order = [*self.sections[self._current :: -1], *self.sections[self._current + 1 :]]
        for exact in (True, False):  # a Hangup of a channel that the recording does not name
            for section in order:
                for exchange in reversed(section.exchanges):
                    ours, theirs = exchange.request.headers, action.headers
                    telling = TELLING[: 4 if name == "Getvar" else 3 if exact else 2]
                    if ours["Action"] == name and all(
                        ours.get(each) == theirs.get(each) for each in telling
                    ):
                        return exchange
        return None
