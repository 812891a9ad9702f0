"""Commands to a node's driver, as they stand in P:command:ID: JSON with a `type` field.

The gate writes them (Fleet.command) and waits for the result (Fleet.result); the worker that
holds the node's lease takes, runs and answers each once. A command that is not repeatable and
was lost with its worker ends with the state "unknown": lua/redis/45_commands.lua writes that
result itself, as `{"state":"unknown"}`. Agents write those that record a call, and no others.
"""

from __future__ import annotations

import uuid
from typing import Literal

import msgspec

from controller.fleet.functions import RECORDING, Fleet
from controller.model import OriginateRequest


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """The PBX itself refuses new calls. Repeatable."""


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Takes Drain back. Repeatable."""


class Hangup(msgspec.Struct, frozen=True, tag="hangup"):
    """Ends every leg of a call; cause is a Q.850 number. Repeatable: a second one finds nothing."""

    pbx_id: str
    cause: int = 16


class Originate(msgspec.Struct, frozen=True, tag="originate"):
    """Starts an outbound call. Not repeatable: it might ring somebody twice."""

    request: OriginateRequest


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Reloads one part of the PBX's configuration. Repeatable."""

    module: str


class Truth(msgspec.Struct, frozen=True, tag="truth"):
    """Compares the fleet's picture with the node's own list now. Repeatable."""


class StartRecording(msgspec.Struct, frozen=True, tag="start_recording"):
    """Records a call into a file that stands ready. Repeatable: it is recorded there once.

    on_end: FreeSWITCH's script that notes the end. The result's pbx_id is the leg that is recorded.
    """

    pbx_id: str
    path: str
    rate_hz: int
    on_end: str = ""


class StopRecording(msgspec.Struct, frozen=True, tag="stop_recording"):
    """Repeatable: a second one finds nothing to stop."""

    leg: str
    path: str


class MaskRecording(msgspec.Struct, frozen=True, tag="mask_recording"):
    """Silence in place of the audio, or no longer. Repeatable."""

    leg: str
    path: str
    on: bool


RecordingCommand = StartRecording | StopRecording | MaskRecording
NodeCommand = Drain | Resume | Hangup | Originate | Reload | Truth | RecordingCommand


class CommandResult(msgspec.Struct, frozen=True):
    """How a command ended. unknown: it may have run. message: for people; pbx_id: Originate's."""

    state: Literal["done", "failed", "unknown"]
    message: str = ""
    pbx_id: str = ""


_command: msgspec.json.Decoder[NodeCommand] = msgspec.json.Decoder(NodeCommand)
_result = msgspec.json.Decoder(CommandResult)


def repeatable(command: NodeCommand) -> bool:
    """Whether the command may run again when its worker was lost with it."""
    return not isinstance(command, Originate)


def encode(value: NodeCommand | CommandResult) -> bytes:
    return msgspec.json.encode(value)


def decode_command(body: bytes) -> NodeCommand:
    """Raises msgspec.ValidationError for what is no command."""
    return _command.decode(body)


def decode_result(body: bytes) -> CommandResult:
    """Raises msgspec.ValidationError for what is no result."""
    return _result.decode(body)


async def send(fleet: Fleet, node: str, command: NodeCommand, within_s: float) -> CommandResult:
    """Queues a command for the node's driver and waits for its result.

    Without one in time a command that no driver has begun is taken back ("failed": it did not run
    and will not); one that a driver has begun may still take effect ("unknown").
    """
    command_id = (RECORDING if isinstance(command, RecordingCommand) else "") + uuid.uuid4().hex
    await fleet.command(node, command_id, encode(command), repeatable(command))
    raw = await fleet.result(command_id, within_s)
    if raw is None and await fleet.cancel(node, command_id):
        return CommandResult("failed", "no driver took the command in time")
    raw = raw or await fleet.result(command_id, 0)
    if raw is None:
        return CommandResult("unknown", f"the node's driver gave no result within {within_s:g} s")
    try:
        return decode_result(raw)
    except msgspec.DecodeError:
        return CommandResult("unknown", "the node's driver gave a result that cannot be read")
