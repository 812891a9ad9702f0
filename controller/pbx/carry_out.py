"""One command of the fleet, carried out on a node by its driver."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec

from controller.errors import CommandRefused, DeadlineExceeded, LinkLost, PbxctlError
from controller.fleet import commands
from controller.fleet.commands import CommandResult, NodeCommand
from controller.pbx.base import Driver

Compare = Callable[[Driver], Awaitable[None]]

log = logging.getLogger(__name__)


async def carry_out(driver: Driver, body: bytes, compare: Compare) -> CommandResult:
    """Runs the command once and tells how it ended. Raises LinkLost: it may have run."""
    try:
        command = commands.decode_command(body)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        return CommandResult("failed", f"not a command: {error}")
    try:
        if isinstance(command, commands.RecordingCommand):
            pbx_id = await _record(driver, command)
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
