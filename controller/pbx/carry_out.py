"""One command of the fleet, carried out on a node by its driver."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath

import msgspec

from controller.errors import CommandRefused, DeadlineExceeded, LinkLost, PbxctlError
from controller.fleet import commands
from controller.fleet.commands import CommandResult, NodeCommand
from controller.fleet.functions import RECORDING
from controller.fleet.state import Command
from controller.pbx.base import Driver

Compare = Callable[[Driver], Awaitable[None]]

#: as the agent names them: the audio, and FreeSWITCH's script that notes the end
_RECORDING = re.compile(r"[0-9a-f]{32}\.raw", re.ASCII)
_ON_END = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+/pbxctl-recorded\.lua|", re.ASCII)

log = logging.getLogger(__name__)


async def carry_out(
    driver: Driver, taken: Command, compare: Compare, recorded_in: PurePosixPath
) -> CommandResult:
    """Runs the command once and tells how it ended. Raises LinkLost: it may have run.

    recorded_in: the folder of the node's recordings.
    """
    try:
        command = commands.decode_command(taken.body)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        return CommandResult("failed", f"not a command: {error}")
    try:
        if isinstance(command, commands.RecordingCommand):
            _check_files(command, recorded_in)
            pbx_id = await _record(driver, command)
        elif taken.id.startswith(RECORDING):
            return CommandResult("failed", "whoever may record may do nothing else")
        else:
            pbx_id = await _run(driver, command, compare)
    except LinkLost:
        raise
    except DeadlineExceeded as error:
        return CommandResult("unknown", error.message)
    except PbxctlError as error:
        return CommandResult("failed", error.message)
    except Exception as error:  # a fault of ours must neither cost the link nor be repeated on it
        log.exception("a command failed: %s", type(command).__name__)
        return CommandResult("unknown", f"a fault of pbxctl: {type(error).__name__}")
    return CommandResult("done", "", pbx_id)


async def _run(driver: Driver, command: NodeCommand, compare: Compare) -> str:
    """The call that an Originate made."""
    match command:
        case commands.Drain():
            await driver.drain()
        case commands.Resume():
            await driver.resume()
        case commands.Hangup():
            if not await driver.hangup(command.pbx_id, command.cause):
                raise CommandRefused("the node has no such call")
        case commands.Originate():
            return await driver.originate(command.request)
        case commands.Reload():
            await driver.reload(command.module)
        case commands.Truth():
            await compare(driver)
    return ""


def _check_files(command: commands.RecordingCommand, recorded_in: PurePosixPath) -> None:
    """Any agent may have written it, not only the node's own. Raises CommandRefused."""
    path = PurePosixPath(command.path)
    if path.parent != recorded_in or not _RECORDING.fullmatch(path.name):
        raise CommandRefused(f"recordings of this node stand in {recorded_in}")
    if isinstance(command, commands.StartRecording) and not _ON_END.fullmatch(command.on_end):
        raise CommandRefused("only pbxctl-recorded.lua may note a recording's end")


async def _record(driver: Driver, command: commands.RecordingCommand) -> str:
    """The leg that is recorded."""
    match command:
        case commands.StartRecording():
            leg = await driver.start_recording(
                command.pbx_id, command.path, command.rate_hz, command.on_end
            )
            if not leg:
                raise CommandRefused("the node has no such call")
            return leg
        case commands.StopRecording():
            await driver.stop_recording(command.leg, command.path)
        case commands.MaskRecording():
            await driver.mask_recording(command.leg, command.path, command.on)
    return command.leg
