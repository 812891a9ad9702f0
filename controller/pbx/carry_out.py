"""One command of the fleet, carried out on a node by its driver."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from controller.errors import DeadlineExceeded, LinkLost, PbxctlError
from controller.fleet import commands
from controller.fleet.commands import CommandResult
from controller.pbx.base import Driver


async def carry_out(
    driver: Driver, body: bytes, compare: Callable[[Driver], Awaitable[None]]
) -> CommandResult:
    """Runs the command once and tells how it ended. Raises LinkLost: it may have run."""
    try:
        command = commands.decode_command(body)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        return CommandResult("failed", f"not a command: {error}")
    pbx_id = ""
    try:
        match command:
            case commands.Drain():
                await driver.drain()
            case commands.Resume():
                await driver.resume()
            case commands.Hangup():
                if not await driver.hangup(command.pbx_id, command.cause):
                    return CommandResult("failed", "the node has no such call")
            case commands.Originate():
                pbx_id = await driver.originate(command.request)
            case commands.Reload():
                await driver.reload(command.module)
            case commands.Truth():
                await compare(driver)
    except LinkLost:
        raise
    except DeadlineExceeded as error:
        return CommandResult("unknown", error.message)
    except PbxctlError as error:
        return CommandResult("failed", error.message)
    return CommandResult("done", "", pbx_id)
