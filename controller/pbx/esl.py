"""The control link to one FreeSWITCH: greenswitch's InboundESL with its framing, decoding,
connecting and sending replaced. What is kept is its connection state, its handler registry and
its queue of commands sent, so handlers written for greenswitch run unchanged.

Everything here is gevent code and runs in the hub's thread (hub.py). Errors of greenswitch,
gevent and sockets end here: what leaves is LinkLost, LoginRefused, DeadlineExceeded,
CommandRefused, ProtocolViolation or UsageError.

Invariants
    order      replies carry no id: the n-th reply belongs to the n-th command. A command given up
               at its deadline keeps its slot, so that its late reply is dropped, not handed on.
    one end    whatever ends the link (EOF, error, notice, bad framing), it ends once, with one
               error, and every waiting command gets that error at once.
    no repeat  an object connects once; nothing is ever sent a second time.
"""

from __future__ import annotations

import logging
import ssl
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gevent
import gevent.lock
from gevent import socket
from gevent.event import AsyncResult
from greenswitch.esl import InboundESL

from controller.errors import (
    CommandRefused,
    DeadlineExceeded,
    LinkLost,
    LoginRefused,
    PbxctlError,
    ProtocolViolation,
    UsageError,
)
from controller.pbx.base import COMMAND_DEADLINE_S
from controller.pbx.esl_frames import EslEvent, Frame, FrameReader, decode_event

log = logging.getLogger(__name__)

_CHUNK_BYTES = 64 * 1024
_FORBIDDEN = ("\r", "\n", "\0")


class EslReply:
    """What stock greenswitch returns from send(): `headers` of the frame and the text in `data`."""

    __slots__ = ("data", "headers")

    def __init__(self, frame: Frame) -> None:
        if frame.content_type == "api/response":
            self.data = frame.body.decode("utf-8", "replace")
        else:
            self.data = frame.head.get("reply-text", "")
        self.headers = frame.head


class Job(NamedTuple):
    """A background job: `result` becomes its whole output, or the error that ended the link."""

    job_id: str
    result: AsyncResult


class EslLink(InboundESL):  # type: ignore[misc]
    """One link, used once. Call everything from greenlets of one hub.

    tls: of gevent.ssl; FreeSWITCH itself has none here, so it is for a stunnel in front of it.
    on_events: gets the events of each chunk that was read, in order; must not block.
    on_lost: gets the error that ended the link, once. Not called when connect() itself fails.
    events_lost: sum of what FreeSWITCH says it dropped. bad_events: events not understood.
    """

    def __init__(
        self,
        host: str,
        port: int,
        password: str,
        timeout: float = COMMAND_DEADLINE_S,
        *,
        tls: ssl.SSLContext | None = None,
        on_events: Callable[[Sequence[EslEvent]], None] | None = None,
        on_lost: Callable[[Exception], None] | None = None,
        on_dropped: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(host, port, password, timeout)
        self.bad_events = 0
        self.last_heard = time.monotonic()
        self._on_events = on_events or self._dispatch
        self._on_lost = on_lost
        self._on_dropped = on_dropped
        self._reader = FrameReader()
        self._tls = tls
        self._writing = gevent.lock.BoundedSemaphore()
        self._jobs: dict[str, AsyncResult] = {}
        self._error: PbxctlError | None = None
        self._used = False
        self.sock: Any = None

    def connect(self) -> None:
        """Opens the link and logs in, within `timeout` seconds."""
        if self._used:
            raise LinkLost("a link connects once: make a new one")
        self._used = True
        deadline = gevent.Timeout(self.timeout)
        deadline.start()
        try:
            # Any address family; the timeout is the whole deadline, not one for each address.
            self.sock = socket.create_connection((self.host, self.port))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)
            self.attach(self.sock)
            self._auth_request_event.wait()
            if self._error is not None:
                raise _again(self._error)
            self.authenticate()
        except gevent.Timeout as timeout:
            if timeout is not deadline:
                raise
            error = DeadlineExceeded(f"no login within {self.timeout:g} s")
            self._lose(error)
            raise error from None
        except OSError as caught:
            error_ = LinkLost(f"cannot connect to {self.host}:{self.port}: {caught}")
            self._lose(error_)
            raise error_ from caught
        except PbxctlError as caught:
            self._lose(caught)
            raise
        finally:
            deadline.close()

    def attach(self, sock: socket.socket) -> None:
        """Reads from a socket that is already connected; connect() does the rest."""
        self._used = True
        self.sock = sock
        self.connected = True
        self._receive_events_greenlet = gevent.spawn(self.receive_events)

    def authenticate(self) -> None:
        reply = self._exchange(f"auth {_clean(self.password)}", self.timeout)
        if not reply.data.startswith("+OK"):
            raise LoginRefused(
                f"{self.host}:{self.port} refused the password",
                hint="compare the node's secret with event_socket.conf.xml",
            )

    def receive_events(self) -> None:
        """The reader: the one place that reads the socket, until the link ends."""
        try:
            while self._error is None:
                data = self.sock.recv(_CHUNK_BYTES)
                if not data:
                    where = " inside a frame" if self._reader.inside_frame else ""
                    raise LinkLost(f"FreeSWITCH closed the link{where}")
                self.last_heard = time.monotonic()
                self._take_chunk(data)
                gevent.sleep(0)  # recv() yields only when it must wait: let other links run
        except PbxctlError as error:
            self._lose(error)
        except OSError as error:
            self._lose(LinkLost(f"the link broke: {error}"))
        except Exception as error:  # a fault of ours must end the link, not freeze it silently
            log.exception("the reader of %s:%s failed", self.host, self.port)
            self._lose(LinkLost(f"the reader failed: {type(error).__name__}"))

    def _take_chunk(self, data: bytes) -> None:
        events = []
        try:
            for frame in self._reader.feed(data):
                event = self._take_frame(frame)
                if event is not None:
                    events.append(event)
        finally:  # what came before a broken frame or a disconnect notice still happened
            if events:
                self._on_events(events)

    def _take_frame(self, frame: Frame) -> EslEvent | None:
        """Handles a frame of the link's own; returns an event that is for the reader."""
        kind = frame.content_type
        if kind.startswith("text/event-"):
            event = decode_event(frame)
            if event is None:
                self.bad_events += 1
                return None
            self.bad_events += bool(event.malformed)
            if event.get("Event-Name") == "BACKGROUND_JOB":
                job = self._jobs.pop(event.get("Job-UUID"), None)
                if job is not None:
                    job.set(event.body)
                    return None
            return event
        if kind in ("command/reply", "api/response"):
            if not self._commands_sent:
                raise ProtocolViolation("a reply that nothing was asked for")
            self._commands_sent.pop(0).set(EslReply(frame))
        elif kind == "auth/request":
            self._auth_request_event.set()
        elif kind == "log/data":
            self._take_log(frame)
        elif kind == "text/disconnect-notice":
            text = frame.body.decode("utf-8", "replace").strip().split("\n")[0]
            raise LinkLost(f"FreeSWITCH ended the link: {text[:80]}")
        elif kind == "text/rude-rejection":
            raise LoginRefused(
                f"{self.host}:{self.port} does not accept this address",
                hint="add it to apply-inbound-acl in event_socket.conf.xml",
            )
        else:
            self.bad_events += 1
        return None

    def _take_log(self, frame: Frame) -> None:
        """A listener whose queue ran over is told by a CRIT log line alone: "Lost [N] events!"."""
        if frame.head.get("log-file") != "mod_event_socket.c" or self._on_dropped is None:
            return
        text = frame.body.decode("utf-8", "replace")
        _, found, rest = text.partition("Lost [")
        count, closed, _ = rest.partition("] events!")
        if found and closed and count.isascii() and count.isdigit():
            self._on_dropped(int(count[:9]))

    def send(self, data: str, deadline_s: float | None = None) -> EslReply:
        """One command line, one reply, within the deadline.

        UsageError: CR, LF or NUL in it, nothing was sent. DeadlineExceeded: the effect is unknown.
        """
        return self._exchange(_clean(data), deadline_s or COMMAND_DEADLINE_S)

    def api(self, command: str, deadline_s: float | None = None) -> str:
        """Runs one API command in FreeSWITCH's link thread; its output. -ERR is output too."""
        return self.send(f"api {command}", deadline_s).data

    def order(self, command: str, deadline_s: float | None = None) -> str:
        """An API command that must succeed: CommandRefused when it answers -ERR or -USAGE."""
        output = self.api(command, deadline_s)
        if output.startswith(("-ERR", "-USAGE")):
            raise CommandRefused(f"{command.split(' ')[0]}: {output.strip()[:120]}")
        return output

    def bgapi(self, command: str, deadline_s: float | None = None) -> Job:
        """Starts a job; its result comes by BACKGROUND_JOB, so subscribe to that before.

        The job's id is ours and known before the job starts, so no result can come too early.
        Give the result back with `forget` when nobody waits for it any more.
        """
        job = Job(str(uuid.uuid4()), AsyncResult())
        self._jobs[job.job_id] = job.result
        try:
            line = f"bgapi {_clean(command)}\nJob-UUID: {job.job_id}"
            reply = self._exchange(line, deadline_s or COMMAND_DEADLINE_S)
            if not reply.data.startswith("+OK"):
                raise CommandRefused(f"bgapi: {reply.data[:120]}")
        except PbxctlError:
            self.forget(job)
            raise
        return job

    def forget(self, job: Job) -> None:
        self._jobs.pop(job.job_id, None)

    def pipeline(self, commands: Sequence[str], deadline_s: float | None = None) -> list[str]:
        """Several API commands with one wait: their outputs, in order."""
        waits = []
        limit = deadline_s or COMMAND_DEADLINE_S
        end = time.monotonic() + limit
        for at in range(0, len(commands), 64):  # both sides' socket buffers hold 64 of them
            slots = [self._write(f"api {_clean(c)}", limit) for c in commands[at : at + 64]]
            waits += [self._await(slot, max(0.001, end - time.monotonic())) for slot in slots]
        return [reply.data for reply in waits]

    def _exchange(self, text: str, deadline_s: float) -> EslReply:
        started = time.monotonic()
        slot = self._write(text, deadline_s)
        return self._await(slot, max(0.001, deadline_s - (time.monotonic() - started)))

    def _write(self, text: str, deadline_s: float) -> AsyncResult:
        """Sends it and takes the slot of its reply. A command cut midway ends the link."""
        slot = AsyncResult()
        with gevent.Timeout(deadline_s) as deadline:
            try:
                with self._writing:
                    self._check()
                    self._commands_sent.append(slot)
                    try:
                        self.sock.sendall((text + "\n\n").encode())
                    except gevent.Timeout:
                        self._lose(LinkLost("FreeSWITCH takes no more commands"))
                        raise
            except gevent.Timeout as timeout:
                if timeout is not deadline:
                    raise
                raise DeadlineExceeded(f"not sent within {deadline_s:g} s") from None
            except OSError as error:
                self._lose(LinkLost(f"the link broke: {error}"))
                self._check()
        return slot

    def _await(self, slot: AsyncResult, deadline_s: float) -> EslReply:
        timeout = gevent.Timeout(deadline_s)
        try:
            with timeout:
                reply: EslReply = slot.get()
                return reply
        except gevent.Timeout as caught:
            if caught is not timeout:
                raise
            raise DeadlineExceeded(f"no answer within {deadline_s:.3g} s") from None

    def _check(self) -> None:
        if self._error is not None:
            raise LinkLost(f"the link has ended: {self._error}")
        if not self.connected:
            raise LinkLost("not connected")

    def _lose(self, error: PbxctlError) -> None:
        """Ends the link once; later calls change nothing."""
        if self._error is not None:
            return
        was_up, self.connected = self.connected, False
        self._error = error
        self._run = False
        if self.sock is not None:
            self.sock.close()
        self._auth_request_event.set()
        for slot in [*self._commands_sent, *self._jobs.values()]:
            slot.set_exception(_again(error))
        self._commands_sent.clear()
        self._jobs.clear()
        if was_up and self._on_lost is not None:
            self._on_lost(error)

    def _dispatch(self, events: Sequence[EslEvent]) -> None:
        """Handlers of greenswitch's registry, when no on_events was given."""
        for event in events:
            name = event.get("Event-Name")
            key = event.get("Event-Subclass") if name == "CUSTOM" else name
            for handler in self.event_handlers.get(key) or self.event_handlers.get("*", ()):
                self._safe_exec_handler(handler, event)

    def stop(self, reason: str = "closed by us") -> None:
        """Closes the link. Repeatable, never waits."""
        self._lose(LinkLost(reason))


def _again(error: PbxctlError) -> PbxctlError:
    """A copy to raise: one object raised in many places would grow a traceback without end."""
    return type(error)(error.message, hint=error.hint)


def _clean(text: str) -> str:
    if any(character in text for character in _FORBIDDEN):
        raise UsageError("CR, LF or NUL in a command to FreeSWITCH")
    return text
