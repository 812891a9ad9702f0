"""The AMI link: panoramisk, made safe at its framing and at its reconnect behaviour.

What is kept of panoramisk 1.4: `Action` (how an action is written), the event registry of
`Manager`, the transport side of `AMIProtocol`. What is replaced, because it loses links, events
or sends commands twice (tests/unit/test_ami_faults.py shows each fault on the stock library):

    framing     pbx/ami_message.py: messages are cut first and decoded after, sizes are capped;
                a broken framing ends the link with ProtocolViolation.
    answers     a message is what its first header says, `Response` or `Event`. Only a Response
                completes an action; an event is taken out of the stream only as a row of a list
                that we asked for, by name and by an ActionID that nobody can guess.
    deadlines   `ask` and `ask_list` end with an answer, CommandRefused, DeadlineExceeded or
                LinkLost. A list has a cap of rows.
    one life    a Link connects once. It never reconnects and never sends an action again.
    liveness    the node is pinged every PING_INTERVAL_S; a link silent for SILENCE_MAX_S is lost.
    injection   a value with CR, LF or NUL raises UsageError before a byte is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import ssl
from collections.abc import Callable, Mapping

from panoramisk.actions import Action
from panoramisk.ami_protocol import AMIProtocol
from panoramisk.manager import Manager

from controller.errors import (
    CommandRefused,
    DeadlineExceeded,
    LinkLost,
    LoginRefused,
    PbxctlError,
    ProtocolViolation,
    UsageError,
)
from controller.pbx.ami_message import Framer, Received, parse
from controller.pbx.base import COMMAND_DEADLINE_S, PING_INTERVAL_S

ROWS_MAX = 200_000
WRITE_BUFFER_MAX = 1 << 20
CONNECT_DEADLINE_S = 5.0
LIST_DEADLINE_S = 20.0
SILENCE_MAX_S = 10.0

log = logging.getLogger(__name__)


class Request(Action):  # type: ignore[misc]
    """One action on its way. `row` names the events that make up its list, "" for no list."""

    def __init__(
        self,
        fields: Mapping[str, str],
        row: str = "",
        on_row: Callable[[Received], None] | None = None,
    ) -> None:
        for name, value in fields.items():
            if any(c in "\r\n\0" for c in f"{name}{value}"):
                raise UsageError(f"{name} holds a line break or NUL, which AMI cannot carry")
        # Unguessable, so that text in an event can never pass for an answer to us.
        super().__init__({**fields, "ActionID": secrets.token_hex(12)})
        self._row = row
        # Asterisk names the end after the action (core) or after the row (res_pjsip)
        self._ends = (f"{fields['Action']}Complete", f"{row}Complete")
        self._on_row = on_row
        self._rows = 0
        self._listing = False

    def wire(self) -> bytes:
        try:
            return str(self).encode()
        except UnicodeEncodeError as error:
            raise UsageError("a value is not valid text") from error

    def respond(self, message: Received) -> None:
        if self._listing or self.future.done():
            return
        if self._row and message.headers["Response"] == "Success":
            self._listing = True
        else:
            self.future.set_result(message)

    def takes(self, event: Received) -> bool:
        """True if the event is a row or the end of the list that this action asked for."""
        name = event.headers["Event"]
        if not self._listing or name not in (self._row, *self._ends):
            return False
        if self.future.done():
            return True
        if name != self._row:
            self.future.set_result(event)
        elif self._rows >= ROWS_MAX:
            self.future.set_exception(ProtocolViolation(f"a list of over {ROWS_MAX} rows"))
        else:
            self._rows += 1
            if self._on_row is not None:
                self._on_row(event)
        return True


class FramedProtocol(AMIProtocol):  # type: ignore[misc]
    def __init__(self, link: Link) -> None:
        self.link = link
        self.framer = Framer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.factory = self.link
        self.link.protocol = self
        if self.link.error is not None:  # closed while it was connecting
            self.close()

    def data_received(self, data: bytes) -> None:
        self.link.heard_at_s = self.link.loop.time()
        try:
            for raw in self.framer.feed(data):
                self.link.take(parse(raw))
        except ProtocolViolation as error:
            self.link.lost(error)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.link.lost(LinkLost(f"the node closed the link{f': {exc}' if exc else ''}"))

    def close(self) -> None:
        # abort, not close: a frozen node never takes the rest of our write buffer.
        self.closed = True
        self.transport.abort()


class Link(Manager):  # type: ignore[misc]
    """One AMI session. Make it inside the running loop; after LinkLost make a new one.

    on_lost is called once, with the error that ended the link, also after close().
    bad_events counts messages and callbacks that failed and were dropped.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        on_lost: Callable[[PbxctlError], None],
    ) -> None:
        super().__init__(host=host, port=port, ssl=tls or False, loop=asyncio.get_running_loop())
        # The stock constructor registers the resending of pending actions on FullyBooted.
        self.callbacks.clear()
        self.patterns.clear()
        self.on_lost = on_lost
        self.error: PbxctlError | None = None
        self.bad_events = 0
        self.heard_at_s = self.loop.time()
        self._pending: dict[str, Request] = {}
        self._routes: dict[str, list[Callable[[Link, Received], object]]] = {}
        self._pinger: asyncio.Task[None] | None = None

    async def connect(self, username: str, secret: str) -> None:
        """Opens the link and logs in by MD5 challenge: the secret itself never travels.

        Raises LoginRefused, LinkLost, DeadlineExceeded or ProtocolViolation, within 5 s.
        """
        if self.protocol is not None or self.error is not None:
            raise LinkLost("a link connects once: make a new one")
        failure: PbxctlError
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                await self.loop.create_connection(
                    lambda: FramedProtocol(self),
                    self.config["host"],
                    self.config["port"],
                    ssl=self.config["ssl"] or None,
                )
                await self._login(username, secret)
        except TimeoutError:
            failure = DeadlineExceeded(f"no login within {CONNECT_DEADLINE_S} s")
        except OSError as error:
            # asyncio's own words repeat address and port; those of OpenSSL have an errno of theirs.
            refused = isinstance(error, ConnectionError) and error.errno
            failure = LinkLost(f"cannot connect: {os.strerror(refused) if refused else error}")
        except PbxctlError as error:
            # A violation closes the link first, and the login then only sees that it is closed.
            failure = self.error if isinstance(self.error, ProtocolViolation) else error
        else:
            self.authenticated = True
            self._pinger = asyncio.create_task(self._ping())
            return
        self.lost(failure)
        raise failure

    async def _login(self, username: str, secret: str) -> None:
        try:
            challenge = await self.ask("Challenge", AuthType="MD5")
            text = challenge.headers.get("Challenge", "") + secret
            key = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
            await self.ask("Login", AuthType="MD5", Username=username, Key=key, Events="on")
        except CommandRefused as error:
            raise LoginRefused(
                f"login refused for {username}",
                hint="check user, secret, permit and acl of the stanza in manager.conf",
            ) from error

    async def ask(
        self, action: str, *, deadline_s: float = COMMAND_DEADLINE_S, **fields: str
    ) -> Received:
        """Sends one action and returns its Response. Response: Error raises CommandRefused."""
        return await self._exchange(Request({"Action": action, **fields}), deadline_s)

    async def ask_list(
        self,
        action: str,
        row: str,
        on_row: Callable[[Received], None],
        *,
        deadline_s: float = LIST_DEADLINE_S,
        **fields: str,
    ) -> None:
        """Sends an action answered by a list; returns when the list is complete.

        on_row is called for each `row` event as it arrives, so a long list never stalls the loop.
        """
        await self._exchange(Request({"Action": action, **fields}, row, on_row), deadline_s)

    async def _exchange(self, request: Request, deadline_s: float) -> Received:
        future = self.send_action(request)
        try:
            async with asyncio.timeout(deadline_s):
                answer: Received = await future
        except TimeoutError as error:
            raise DeadlineExceeded(f"{request['Action']}: no answer in {deadline_s} s") from error
        finally:
            self._pending.pop(request.id, None)
        if answer.headers.get("Response") == "Error":
            why = answer.headers.get("Message", "")[:200]
            raise CommandRefused(f"{request['Action']}: the PBX refused: {why}")
        return answer

    def send_action(self, action: Request, **_: object) -> asyncio.Future[Received]:
        """Writes the action once. Its future gets the answer, or LinkLost."""
        if self.error is not None or self.protocol is None:
            raise LinkLost("the link is closed")
        transport = self.protocol.transport
        if transport.get_write_buffer_size() > WRITE_BUFFER_MAX:
            self.lost(LinkLost("the node does not read"))
            raise LinkLost("the node does not read")
        transport.write(action.wire())
        self._pending[action.id] = action
        future: asyncio.Future[Received] = action.future
        return future

    def take(self, message: Received) -> None:
        """Gives one message to the action it answers, or to the callbacks. Never raises."""
        if self.error is not None:
            return
        request = self._pending.get(message.headers.get("ActionID", ""))
        try:
            if message.kind == "Response":
                if request is not None:  # else the answer came after its deadline
                    request.respond(message)
            elif message.kind != "Event":
                self.bad_events += 1
            elif request is None or not request.takes(message):
                self.dispatch(message)
        except Exception:  # a fault in whoever reads a row must not cost the link
            self.bad_events += 1
            log.warning("a row was dropped", exc_info=True)

    def dispatch(self, event: Received) -> None:
        name = event.headers["Event"]
        callbacks = self._routes.get(name)
        if callbacks is None:
            callbacks = [
                each
                for p, regexp in self.patterns
                if regexp.match(name)
                for each in self.callbacks[p]
            ]
            if len(self._routes) < 512:  # names come from the wire
                self._routes[name] = callbacks
        event.manager = self
        for callback in callbacks:
            try:
                callback(self, event)
            except Exception:  # a fault in one callback must cost neither link nor others
                self.bad_events += 1
                log.warning("a callback for %.40r failed", name, exc_info=True)

    def silence_s(self) -> float:
        return float(self.loop.time() - self.heard_at_s)

    async def _ping(self) -> None:
        """Makes the node talk. One ping is under way at a time, so a frozen node gets one."""
        answer: asyncio.Future[Received] | None = None
        ping = ""
        while self.error is None:
            await asyncio.sleep(PING_INTERVAL_S)
            if self.silence_s() > SILENCE_MAX_S:
                self.lost(LinkLost(f"silent for {SILENCE_MAX_S:.0f} s"))
            elif answer is None or answer.done():
                self._pending.pop(ping, None)
                request = Request({"Action": "Ping"})
                ping = request.id
                with contextlib.suppress(LinkLost):  # on_lost has told it
                    answer = self.send_action(request)

    def lost(self, error: PbxctlError) -> None:
        """Ends the link: every pending action fails, nothing is kept for later. Repeatable."""
        if self.error is not None:
            return
        self.error = error
        for request in self._pending.values():
            if not request.future.done():
                request.future.set_exception(LinkLost(f"{request['Action']}: {error}"))
                request.future.exception()  # a ping has no reader; do not complain about it
        if self._pinger is not None:
            self._pinger.cancel()
        if self.protocol is not None:
            self.protocol.close()
        self.on_lost(error)

    def close(self) -> None:
        self.lost(LinkLost("closed by us"))
