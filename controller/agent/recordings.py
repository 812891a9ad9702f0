"""Answers the dialplan's question whether a call is recorded: `GET /record` on loopback.

Query: node, call (SIP Call-ID), pbx (the call as the PBX names it), leg, caller, callee, service.
The answer is one line, `record|ID|`, `go_on||` or `refuse||`. It needs nobody but this machine, so
it is the same while everything else of the fleet is away. ID names files that stand ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from controller.agent import recording_metrics as metrics
from controller.agent import tmpfs
from controller.agent.recorder import Recorder
from controller.agent.shipping import Shipping, keep_key, kept_key
from controller.agent.spool import Openings, Spool
from controller.agent.tmpfs import Files, Memo
from controller.config import Config
from controller.config_recordings import RecordingRule, RecordingsConfig
from controller.errors import ConfigError, PbxctlError, Refused
from controller.fleet import commands
from controller.fleet.functions import Fleet
from controller.fleet.recordings import FleetRecordings
from controller.media.recording import Decision, Offered, decide, rule_for
from controller.model import Kind
from controller.pbx.recorded_files import SIDES, STEREO
from controller.tasks import together
from controller.vault.body import Sealer
from controller.vault.header import Header, Particulars, seal_envelope
from controller.vault.suites import DATA_KEY_BYTES, SALT_BYTES
from controller.vault.wire import Begin, PublicKey

KEY_LOOK_S = 60.0
KEY_RETRY_S = 2.0
PLACE_LOOK_S = 0.5
ALARM_AGAIN_S = 300.0
COMMAND_S = 6.0  # the driver's own deadline is 5 s
TEXT_MAX_CHARS = 128
#: in the envelope everything fits, whatever a caller has sent; bytes as JSON has them, of which one
#: character can take six
_PARTICULAR_CHARS = 64
_PARTICULAR_BYTES = 88

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """A call to be recorded. pbx, leg: itself and its leg as the PBX names them."""

    call: str
    pbx: str
    leg: str
    caller: str
    callee: str


class NodeRecordings:
    """One node's. `run` ends only when cancelled. Raises ConfigError for a group that is none."""

    def __init__(
        self,
        config: Config,
        recordings: RecordingsConfig,
        fleet: Fleet,
        node: str,
        *,
        swaps: Path = tmpfs.SWAPS,
    ) -> None:
        self.node = node
        self._config = config
        self._recordings = recordings
        self._fleet = fleet
        kind = config.nodes[node].kind
        self.rate_hz = recordings.rate_on(kind)
        self._layout = SIDES[self.rate_hz] if kind is Kind.ASTERISK else STEREO
        self._group = _group(config, recordings)
        self._root = Path(recordings.folder)
        self._swaps = swaps
        self.folder = self._root / node
        self._shipping = Shipping(config, node)
        self._key_path = config.state_path / "agent" / "vault.key"
        self._key = kept_key(self._key_path)
        self._alarms: dict[str, float] = {}
        self._later: set[asyncio.Task[None]] = set()
        self.recorder: Recorder | None = None
        self._unusable = "the agent is starting"

    @property
    def problem(self) -> str:
        """Why no recording may begin, "" when one may."""
        if self._unusable:
            return self._unusable
        if self._key is None:
            return "the vault was never reached, so there is no key to seal to"
        return self.recorder.problem if self.recorder else "the agent is starting"

    async def run(self) -> None:
        try:
            while self.recorder is None:
                self._unusable = self._prepare()
                if self._unusable:
                    self.alarm(f"nothing is recorded: {self._unusable}")
                    metrics.UNABLE.labels(self.node).set(1)
                    await asyncio.sleep(1.0)
            await together(self.recorder.run(), self._follow_key(), self._follow_place())
        finally:
            await self._shipping.close()

    def _place_problem(self) -> str:
        return tmpfs.problem_of(self._root, noswap=self._recordings.noswap, swaps=self._swaps)

    async def _follow_place(self) -> None:
        """Swap may be turned on at any time, and a tmpfs mounted anew."""
        while True:
            await asyncio.sleep(PLACE_LOOK_S)
            problem = await asyncio.to_thread(self._place_problem)
            if problem and self.recorder:
                self.alarm(f"nothing is recorded: {problem}")
                self.recorder.stop_all(problem)
            elif self._unusable:
                _log.warning("%s: recording goes on", self.node)
            self._unusable = problem
            if self.recorder:
                self.recorder.place_problem = problem

    def _prepare(self) -> str:
        if problem := self._place_problem():
            return problem
        try:
            tmpfs.make_folder(self.folder, self._group)
            spool = self._config.state_path / "agent" / "spool" / self.node
            self.recorder = Recorder(
                self.node,
                self.folder,
                Spool(spool, self._recordings.spool_max_mb << 20),
                Openings(spool / "open"),
                self._shipping,
                alarm=self.alarm,
                stop=self._ask_to_stop,
            )
        except OSError as error:
            return f"{error.filename or self.folder}: {error.strerror}"
        return ""

    async def _follow_key(self) -> None:
        while True:
            try:
                key = await self._shipping.public_key()
                if key != self._key:
                    # Once for nothing: the first call shall not wait for what is loaded late.
                    self._memo(secrets.token_hex(16), key, Call("", "", "", "", ""), None, "")
                    self._key = key
                    await asyncio.to_thread(keep_key, self._key_path, key)
            except (PbxctlError, OSError) as error:
                _log.debug("the vault's key: %s", error)
            await asyncio.sleep(KEY_LOOK_S if self._key else KEY_RETRY_S)

    def begin(self, call: Call, rule: RecordingRule | None, reason: str = "") -> str:
        """Makes the files of a recording; its id. reason: of who asked for it without a rule.

        Raises Refused where nothing can be recorded.
        """
        if self.problem or self._key is None or self.recorder is None:
            raise Refused(f"nothing can be recorded on {self.node}: {self.problem}")
        files = Files(self.folder, secrets.token_hex(16))
        memo = self._memo(files.recording, self._key, call, rule, reason)
        try:
            files.make(memo, self._group)
            self.recorder.begin(files, memo)
        except OSError as error:
            files.remove()
            raise Refused(f"{error.filename or self.folder}: {error.strerror}") from error
        return files.recording

    def drop(self, recording: str) -> None:
        """Forgets one that `begin` made, of which the PBX never heard."""
        if self.recorder:
            self.recorder.drop(recording)

    def _memo(
        self, recording: str, key: PublicKey, call: Call, rule: RecordingRule | None, reason: str
    ) -> Memo:
        started_us = time.time_ns() // 1000
        header = Header(
            self._recordings.tenant or self._config.fleet, self.node, recording, started_us,
            rate_hz=self.rate_hz,
        )  # fmt: skip
        particulars = Particulars(
            call=_fitting(call.call),
            caller=_fitting(call.caller),
            callee=_fitting(call.callee),
            rule=rule.name if rule else "",
            retention_days=(rule.retention_days if rule else None) or self._retention_days,
            reason=_fitting(reason),
        )
        data_key, salt = secrets.token_bytes(DATA_KEY_BYTES), secrets.token_bytes(SALT_BYTES)
        context = header.encode()
        envelope = seal_envelope(key.public_key, key.key_id, header, data_key, particulars.encode())
        prologue = Sealer(header.suite, data_key, context, salt).prologue
        begin = Begin(recording, context, envelope, prologue)
        return Memo(
            begin, data_key, salt, started_us,
            call.call, call.pbx, call.leg, rule.name if rule else "", layout=self._layout,
        )  # fmt: skip

    @property
    def _retention_days(self) -> int:
        return self._config.vault.retention_days if self._config.vault else 0

    def alarm(self, words: str) -> None:
        """For a person, and not the same one again and again."""
        now_s = time.monotonic()
        if now_s - self._alarms.get(words, -ALARM_AGAIN_S) < ALARM_AGAIN_S:
            return
        if len(self._alarms) > 1000:
            self._alarms.clear()
        self._alarms[words] = now_s
        _log.error("%s: %s", self.node, words)
        self._soon(self._fleet_alarm(words))

    async def _fleet_alarm(self, words: str) -> None:
        with contextlib.suppress(PbxctlError):  # it stands in the log
            await FleetRecordings(self._fleet).alarm(self.node, words)

    def _ask_to_stop(self, memo: Memo) -> None:
        self._soon(self._stop(memo))

    async def _stop(self, memo: Memo) -> None:
        order = commands.StopRecording(memo.leg, self.path_of(memo.begin.recording))
        with contextlib.suppress(PbxctlError):
            await commands.send(self._fleet, self.node, order, COMMAND_S)

    def recorded_leg(self, recording: str, leg: str) -> None:
        """Which leg the PBX chose; where nobody tells, the call's own id stands for it."""
        if self.recorder and (live := self.recorder.live.get(recording)):
            live.remember_leg(leg)

    def path_of(self, recording: str) -> str:
        return str(Files(self.folder, recording).raw)

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)


class Recordings:
    """Of all nodes on this machine; of none where the config has no recordings."""

    def __init__(
        self, config: Config, fleet: Fleet, nodes: list[str], *, swaps: Path = tmpfs.SWAPS
    ) -> None:
        ours = config.recordings
        self._recordings = ours or RecordingsConfig()
        self.nodes = (
            {n: NodeRecordings(config, ours, fleet, n, swaps=swaps) for n in nodes} if ours else {}
        )

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/record", self.record)

    async def record(self, request: web.Request) -> web.Response:
        node = self.nodes.get(request.query.get("node", ""))
        if node is None:
            return web.Response(status=400, text="node is none of this machine\n")
        text = {key: _text(request, key) for key in ("call", "pbx", "leg", "caller", "callee")}
        offered = Offered(text["call"], text["caller"], text["callee"], _text(request, "service"))
        rule = rule_for(self._recordings.rules, offered)
        problem = node.problem if rule else ""
        decision = decide(self._recordings, rule, problem)
        recording = ""
        if decision is Decision.RECORD:
            try:
                recording = node.begin(Call(**text), rule)
                if await _hung_up(request):
                    node.drop(recording)
                    recording = ""
                    raise Refused("the agent was too slow for the PBX, which went on without it")
            except PbxctlError as error:
                problem = error.message
                decision = decide(self._recordings, rule, problem)
        if rule:
            metrics.ASKED.labels(node.node, decision).inc()
        if problem:
            node.alarm(
                f"a call is not recorded as rule {rule.name if rule else ''} wants: {problem}"
            )
        return web.Response(text=f"{decision}|{recording}|")


async def _hung_up(request: web.Request) -> bool:
    """Whether who asked has given up; a moment for the loop to hear of it."""
    await asyncio.sleep(0.001)
    return request.transport is None or request.transport.is_closing()


def _text(request: web.Request, key: str) -> str:
    """A stranger's text, as UTF-8 that every reader can hold."""
    raw = request.query.get(key, "")[:TEXT_MAX_CHARS]
    return raw.encode("utf-8", "replace").decode("utf-8", "replace").replace("\0", "")


def _fitting(text: str) -> str:
    text = text[:_PARTICULAR_CHARS]
    while len(msgspec.json.encode(text)) - 2 > _PARTICULAR_BYTES:
        text = text[:-1]
    return text


def _group(config: Config, recordings: RecordingsConfig) -> int | None:
    if recordings.group is None:
        return None
    try:
        return grp.getgrnam(recordings.group).gr_gid
    except KeyError as error:
        raise ConfigError(
            f"there is no group {recordings.group}",
            file=config.source,
            key="recordings.group",
            hint="the group that the PBX runs as, often asterisk or freeswitch",
        ) from error
