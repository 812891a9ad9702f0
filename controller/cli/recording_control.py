"""pbxctl recordings start, stop, pause, resume: one call's recording while the call is on."""

from __future__ import annotations

import click

from controller.api.recording_control import RecordingAsk, RecordingChange
from controller.cli import options, output
from controller.cli.completion import call_keys
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.errors import PbxctlError

_DONE = {
    "start": "is being recorded",
    "stop": "is no longer recorded",
    "pause": "is recorded as silence until `pbxctl recordings resume`",
    "resume": "is being recorded again",
}
_call = click.argument("call_id", metavar="CALL", shell_complete=call_keys)


@options.examples("pbxctl recordings start 5a0ad9c1@198.51.100.7 --reason 'ticket 4711'")
@click.command()
@options.changing
@_call
@click.option("--reason", default="", metavar="TEXT", help="Kept with the recording (64 letters).")
@click.pass_obj
def start(session: Session, call_id: str, reason: str) -> None:
    """Record a call that no rule has recorded, from now on."""
    session.confirm(f"Record the call {call_id}?")
    _ask(session, call_id, RecordingAsk(dry_run=session.dry_run, verb="start", reason=reason))


@options.examples("pbxctl recordings stop 5a0ad9c1@198.51.100.7")
@click.command()
@options.changing
@_call
@click.pass_obj
def stop(session: Session, call_id: str) -> None:
    """End a call's recording; what was recorded is kept."""
    session.confirm(f"Stop recording the call {call_id}?")
    _ask(session, call_id, RecordingAsk(dry_run=session.dry_run, verb="stop"))


@options.examples("pbxctl recordings pause 5a0ad9c1@198.51.100.7")
@click.command()
@options.changing
@_call
@click.pass_obj
def pause(session: Session, call_id: str) -> None:
    """Silence in place of both voices, as while a card's number is said. Who asked is noted."""
    _ask(session, call_id, RecordingAsk(dry_run=session.dry_run, verb="pause"))


@options.examples("pbxctl recordings resume 5a0ad9c1@198.51.100.7")
@click.command()
@options.changing
@_call
@click.pass_obj
def resume(session: Session, call_id: str) -> None:
    """Record both voices again."""
    _ask(session, call_id, RecordingAsk(dry_run=session.dry_run, verb="resume"))


def _ask(session: Session, call_id: str, ask: RecordingAsk) -> None:
    with waiting(session, "waiting for the node"):
        done = session.gate().post(RecordingChange, "calls", call_id, "recording", body=ask)
    if session.output in ("json", "yaml"):
        output.dump(session, done)
    elif session.output == "name":
        click.echo(done.recording)
    elif done.state == "dry_run":
        output.say(session, [f"The call on {done.node} would be one that {_DONE[done.action]}."])
    elif done.state == "done":
        output.say(session, [f"The call on {done.node} {_DONE[done.action]}: {done.recording}."])
    if done.state == "failed":
        raise PbxctlError(
            f"{done.action}: {done.message or 'the node gave no reason'}",
            hint=f"pbxctl alarms; pbxctl calls show {done.call}",
        )
    if done.state == "unknown":
        raise PbxctlError(
            f"whether the recording did {done.action} is not known: {done.message}",
            hint=f"does the agent of {done.node} run? It can be asked again.",
        )
