"""A small event socket of our own for tests: the documented framing, over real TCP.

It knows no telephony. `answers` maps an API command, or its first word, to its output; `push` sends
any bytes. Everything a client sent is in `commands`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

STATUS = """UP 0 years, 0 days, 1 hour, 2 minutes, 3 seconds, 182 milliseconds, 208 microseconds
FreeSWITCH (Version 1.11.1-release git c2c5964 2026-05-26 20:41:26Z 64bit) is ready
0 session(s) since startup
0 session(s) per Sec out of max 100, peak 0, last 5min 0
100 session(s) max
"""
ANSWERS = {
    "status": STATUS,
    "uptime": "3723\n",
    "show": '{"row_count": 0}\n',
    "uuid_exists": "false",
    "uuid_getvar": "-ERR No such channel!\n",
    "uuid_kill": "-ERR No such channel!\n",
}


def frame(kind: str, body: bytes, extra: str = "") -> bytes:
    return f"Content-Length: {len(body)}\nContent-Type: {kind}\n{extra}\n".encode() + body


def reply(text: str) -> bytes:
    return f"Content-Type: command/reply\nReply-Text: {text}\n\n".encode()


def plain(*lines: str, tail: bytes = b"") -> bytes:
    return frame("text/event-plain", "".join(f"{line}\n" for line in lines).encode() + b"\n" + tail)


class EslServer:
    """greeting: sent on connect. Frozen, it keeps its answers until `thaw`; a deaf one reads no
    more after the login, so that its client's send buffer fills.
    """

    def __init__(
        self,
        answers: Mapping[str, str] | None = None,
        *,
        address: str = "127.0.12.20",
        password: str = "secret",
        greeting: bytes = b"Content-Type: auth/request\n\n",
        deaf: bool = False,
    ) -> None:
        self.answers = {**ANSWERS, **(answers or {})}
        self.password = password
        self.greeting = greeting
        self.deaf = deaf
        self.frozen = False
        self.commands: list[str] = []
        self.on_command: Callable[[str], bytes | None] | None = None
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family)
        self.host, self.port = self._listener.getsockname()[:2]
        self._links: list[socket.socket] = []
        self._closed = False
        self._held: list[tuple[socket.socket, bytes]] = []
        self._order = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def push(self, data: bytes) -> None:
        for link in self._links:
            with suppress(OSError):  # one that has gone
                link.sendall(data)

    def cut(self) -> None:
        for link in self._links:
            _shut(link)
        self._links.clear()

    def thaw(self) -> None:
        self.frozen = False
        self._answer_held()

    def _answer_held(self) -> None:
        with self._order:
            while self._held and not self.frozen:
                link, answer = self._held.pop(0)
                with suppress(OSError):
                    link.sendall(answer)

    def drain(self) -> int:
        """Of a deaf server: reads what ever came, until the client has gone; how many bytes."""
        total = 0
        for link in self._links:
            link.settimeout(2)
            with suppress(OSError):
                while data := link.recv(1 << 20):
                    total += len(data)
        return total

    def close(self) -> None:
        self._closed = True
        _shut(self._listener)
        self._listener.close()
        self.cut()

    def __enter__(self) -> EslServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self._links.append(link)
            link.sendall(self.greeting)
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        buffer = b""
        try:
            while data := link.recv(65536):
                buffer += data
                while b"\n\n" in buffer:
                    command, buffer = buffer.split(b"\n\n", 1)
                    text = command.decode()
                    self.commands.append(text)
                    answer = self._answer(text)
                    with self._order:
                        self._held.append((link, answer or b""))
                    self._answer_held()
                    if text == "exit":
                        _shut(link)
                    if self.deaf:
                        return
        except OSError:
            return

    def _answer(self, text: str) -> bytes | None:
        if self.on_command is not None:
            answer = self.on_command(text)
            if answer is not None:
                return answer
        verb, _, rest = text.partition(" ")
        if verb == "auth":
            return reply("+OK accepted" if rest == self.password else "-ERR invalid")
        if verb == "api":
            output = self.answers.get(rest) or self.answers.get(rest.split(" ")[0])
            return frame("api/response", (output or "-ERR no such command\n").encode())
        if verb == "bgapi":
            return reply("+OK Job-UUID: " + text.rpartition("Job-UUID: ")[2])
        return reply("+OK")


def _shut(link: socket.socket) -> None:
    with suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
    link.close()
