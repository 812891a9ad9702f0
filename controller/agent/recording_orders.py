"""Does what people want of recordings: `pbxctl recordings start|stop|pause|resume CALL`.

The agent makes the files and knows what is recorded; the PBX is told by its driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from controller.agent.recordings import COMMAND_S, Call, NodeRecordings
from controller.agent.sealing import Recording
from controller.errors import PbxctlError, Refused
from controller.fleet import commands
from controller.fleet.commands import CommandResult, NodeCommand
from controller.fleet.functions import Fleet
from controller.fleet.recordings import FleetRecordings, Wanted

POLL_S = 0.3

_log = logging.getLogger(__name__)


class RecordingOrders:
    """Of one node. `run` ends only when cancelled. Redis may be away."""

    def __init__(self, fleet: Fleet, recordings: NodeRecordings, conf: Path) -> None:
        self._fleet = fleet
        self._recordings = recordings
        self._on_end = conf / "pbxctl-recorded.lua"

    async def run(self) -> None:
        door = FleetRecordings(self._fleet)
        while True:
            try:
                while wanted := await door.take(self._recordings.node):
                    try:
                        result = await self._do(wanted)
                    except Refused as error:
                        result = CommandResult("failed", error.message)
                    await door.told(wanted, result)
            except PbxctlError as error:
                _log.debug("orders of recordings: %s", error)
            await asyncio.sleep(POLL_S)

    async def _do(self, wanted: Wanted) -> CommandResult:
        recorder = self._recordings.recorder
        found = recorder.of_call(wanted.pbx_id) if recorder else []
        if wanted.verb == "start":
            if found:
                return CommandResult("failed", "the call is being recorded", found[0].id)
            return await self._start(wanted)
        if not found:
            return CommandResult("failed", "the call is not being recorded")
        for recording in found:
            result = await self._change(wanted, recording)
            if result.state != "done":
                return result
        return CommandResult("done", "", found[0].id)

    async def _start(self, wanted: Wanted) -> CommandResult:
        call = Call(wanted.call, wanted.pbx_id, wanted.pbx_id, wanted.caller, wanted.callee)
        recording = self._recordings.begin(call, None, wanted.reason)
        path = self._recordings.path_of(recording)
        order = commands.StartRecording(
            wanted.pbx_id, path, self._recordings.rate_hz, str(self._on_end)
        )
        result = await self._send(order)
        if result.state == "done":
            with contextlib.suppress(OSError):  # of a full tmpfs: it is known until we restart
                self._recordings.recorded_leg(recording, result.pbx_id)
        # of a failed one the file stays empty, and the recorder takes it away
        return CommandResult(result.state, result.message, recording)

    async def _change(self, wanted: Wanted, recording: Recording) -> CommandResult:
        path, leg = self._recordings.path_of(recording.id), recording.memo.leg
        if wanted.verb == "stop":
            with contextlib.suppress(OSError):  # the same: without the note it ends as partial
                recording.files.end_in_order()
            return await self._send(commands.StopRecording(leg, path))
        return await self._send(commands.MaskRecording(leg, path, wanted.verb == "pause"))

    async def _send(self, order: NodeCommand) -> CommandResult:
        return await commands.send(self._fleet, self._recordings.node, order, COMMAND_S)
