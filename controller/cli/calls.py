"""pbxctl calls: what is up, why a call went where it went, hanging up and calling out."""

from __future__ import annotations

import time

import click

from controller.api.shapes import (
    CallAction,
    Calls,
    CallView,
    FleetView,
    HangupAsk,
    OriginateAsk,
    Why,
)
from controller.cli import options, output
from controller.cli.completion import call_keys, node_names
from controller.cli.output import Column
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.errors import PbxctlError
from controller.model import Priority

PRIORITIES = click.Choice([p.value for p in Priority])


def age(ms: int) -> str:
    """As 45s, 3m20s, 2h05m."""
    seconds = max(ms, 0) // 1000
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def columns(now_ms: int) -> tuple[Column[CallView], ...]:
    def state(call: CallView) -> str:
        return "answered" if call.state == "live" and call.answered_ms else call.state

    def media(call: CallView) -> str:
        return call.security.verdict if call.security else ""

    return (
        Column("CALL", lambda c: c.key),
        Column("NODE", lambda c: c.node),
        Column("STATE", state),
        Column("FROM", lambda c: c.caller, rank=2),
        Column("TO", lambda c: c.callee, rank=1),
        Column("AGE", lambda c: age(now_ms - (c.started_ms or c.placed_ms)), right=True),
        Column("MEDIA", media, rank=3),
        Column("SERVICE", lambda c: c.service, rank=4),
        Column("REGION", lambda c: c.region, rank=5),
        Column("PRIORITY", lambda c: c.priority, wide=True),
        Column("PBX ID", lambda c: c.pbx_id, wide=True),
        Column("CALL ID", lambda c: c.call_id, wide=True),
        Column("PLACEMENT", lambda c: c.placement, wide=True),
        Column("REASON", lambda c: c.reason, rank=6),
    )


@options.examples(
    "pbxctl calls list",
    "pbxctl calls why 5a0ad9c1@198.51.100.7",
)
@click.group(cls=options.Nouns)
def calls() -> None:
    """The fleet's calls."""


@options.examples(
    "pbxctl calls list --node pbx1",
    "pbxctl calls list -w 1",
)
@calls.command("list")
@options.reading
@click.option("--node", default="", help="Only calls of this node.", shell_complete=node_names)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    help="Show so many at most.",
)
@click.pass_obj
def list_(session: Session, node: str, limit: int) -> None:
    """Live calls, one row a call however many legs it has."""
    gate = session.gate()

    def once() -> None:
        with waiting(session, "asking the gate"):
            query = {"limit": str(limit)} | ({"node": node} if node else {})
            seen = gate.get(Calls, "calls", **query)
            now_ms = gate.get(FleetView, "fleet").now_ms
        output.show(
            session, seen, seen.calls, columns(now_ms), lambda c: c.key, empty="no live calls"
        )
        if seen.truncated:
            output.note(session, f"there are more than {limit}: raise --limit or give --node")

    output.repeat(session, once)


@options.examples("pbxctl calls show 5a0ad9c1@198.51.100.7")
@calls.command()
@options.reading
@click.argument("call_id", metavar="ID", shell_complete=call_keys)
@click.pass_obj
def show(session: Session, call_id: str) -> None:
    """One call's record. ID is its key, SIP Call-ID or placement."""
    gate = session.gate()

    def once() -> None:
        with waiting(session, "asking the gate"):
            call = gate.get(CallView, "calls", call_id)
        people = session.output in ("table", "wide")
        times = {
            name: stamp(ms) if people else ms
            for name in ("placed_ms", "started_ms", "answered_ms", "ended_ms")
            if (ms := getattr(call, name)) or not people
        }
        data = output.as_data(call) | times
        if people:
            del data["security"]
            data |= media_facts(call)
        output.facts(session, data, call.key)

    output.repeat(session, once)


def media_facts(call: CallView) -> dict[str, str]:
    """What is known of the call's media, a line a leg."""
    if call.security is None:
        return {"media": "not attested" if call.answered_ms else ""}
    told = call.security
    lines = {"media": told.verdict, "media_action": told.action, "media_reason": told.reason}
    if told.packets:
        lines["media_packets"] = told.packets
    for number, leg in enumerate(told.legs, 1):
        media = {True: "encrypted", False: "NOT encrypted", None: "unknown"}[leg.encrypted]
        suite = f" by {leg.suite}" if leg.suite else ""
        signalling = {True: "TLS", False: "in clear", None: "unknown"}[leg.tls]
        lines[f"leg_{number}"] = f"{leg.leg}: {media}{suite}, signalling {signalling}"
    return lines


def stamp(ms: int) -> str:
    """Milliseconds of Redis TIME as local time of day with its date."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000)) + f".{ms % 1000:03d}"


@options.examples("pbxctl calls why 5a0ad9c1@198.51.100.7")
@calls.command()
@options.printing
@click.argument("call_id", metavar="ID", shell_complete=call_keys)
@click.pass_obj
def why(session: Session, call_id: str) -> None:
    """Why the call went to its node, in plain words with the numbers."""
    with waiting(session, "asking the gate"):
        told = session.gate().get(Why, "calls", call_id, "why")
    if session.output in ("json", "yaml"):
        output.dump(session, told)
    elif session.output == "name":
        click.echo(told.call.key)
    else:
        output.say(session, told.words)


@options.examples(
    "pbxctl calls hangup 5a0ad9c1@198.51.100.7",
    "pbxctl calls hangup 5a0ad9c1@198.51.100.7 --cause 41 --yes",
)
@calls.command()
@options.changing
@click.argument("call_id", metavar="ID", shell_complete=call_keys)
@click.option(
    "--cause",
    type=click.IntRange(1, 127),
    default=16,
    show_default=True,
    help="Q.850 cause the other side is told; 16 is normal clearing.",
)
@click.pass_obj
def hangup(session: Session, call_id: str, cause: int) -> None:
    """Hang up every leg of a call."""
    session.confirm(f"Hang up the call {call_id}?")
    with waiting(session, "waiting for the node"):
        ask = HangupAsk(dry_run=session.dry_run, cause=cause)
        done = session.gate().post(CallAction, "calls", call_id, "hangup", body=ask)
    _report(session, done, f"the call on {done.node}", "hung up")


@options.examples("pbxctl calls originate --to 0301234567 --from 4001")
@calls.command()
@options.changing
@click.option("--to", required=True, metavar="NUMBER", help="The number to ring.")
@click.option(
    "--from",
    "caller",
    required=True,
    metavar="NUMBER",
    help="What it is connected to once it answers, and the number it sees.",
)
@click.option("--region", default="", help="Region to ask from (default: the config's first).")
@click.option("--priority", type=PRIORITIES, help="Instead of the number plan's priority.")
@click.option(
    "--ring",
    "ring_s",
    type=click.FloatRange(1, 300),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long it may ring.",
)
@click.pass_obj
def originate(
    session: Session, to: str, caller: str, region: str, priority: str | None, ring_s: float
) -> None:
    """Call a number from the node that placement chooses."""
    session.confirm(f"Call {to} from {caller}?")
    ask = OriginateAsk(
        dry_run=session.dry_run,
        to=to,
        caller=caller,
        region=region,
        priority=Priority(priority) if priority else None,
        timeout_s=ring_s,
    )
    with waiting(session, "waiting for the node"):
        done = session.gate().post(CallAction, "calls", body=ask)
    _report(session, done, f"the call to {to} from {done.node}", "begun")


def _report(session: Session, done: CallAction, what: str, verb: str) -> None:
    if session.output in ("json", "yaml"):
        output.dump(session, done)
    elif session.output == "name":
        click.echo(done.placement or done.pbx_id)
    elif done.state == "dry_run":
        output.say(session, [f"{what} would be {verb}. {done.message}".strip()])
    elif done.state == "done":
        known = f" Its placement is {done.placement}." if done.placement and verb == "begun" else ""
        output.say(session, [f"{what} is {verb}.{known}"])
    if done.state == "failed":
        raise PbxctlError(
            f"{what} was not {verb}: {done.message or 'the node gave no reason'}",
            hint=f"pbxctl nodes show {done.node}",
        )
    if done.state == "unknown":
        raise PbxctlError(
            f"whether {what} was {verb} is not known: {done.message or 'its driver was lost'}",
            hint=f"look before you repeat it: pbxctl calls list --node {done.node}",
        )
