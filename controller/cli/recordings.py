"""pbxctl recordings: what was recorded, for those whose certificate allows it."""

from __future__ import annotations

import re
import time

import click

from controller.api.recording_shapes import (
    EraseAsk,
    HoldAsk,
    KeptReport,
    Peaks,
    Reads,
    RecordingAction,
    RecordingDetail,
    Recordings,
    RecordingView,
    Verified,
)
from controller.cli import options, output
from controller.cli.output import Column
from controller.cli.picture import drawn
from controller.cli.session import Session
from controller.cli.times import clock, length, moment
from controller.cli.waiting import waiting
from controller.errors import UsageError
from controller.records.recording_rows import Kept, Read

#: a verification or a picture reads a whole recording
LONG_S = 600.0
STATES = ("growing", "complete", "partial", "erasing", "erased")
STATE_STYLE = {"complete": "green", "growing": "cyan", "partial": "yellow", "erased": "dim"}


def _state(view: RecordingView) -> str:
    return "LOST" if view.lost else view.state + (", held" if view.holds else "")


def _state_style(view: RecordingView) -> str:
    return "bold red" if view.lost else STATE_STYLE.get(view.state, "")


COLUMNS: tuple[Column[RecordingView], ...] = (
    Column("RECORDING", lambda r: r.recording),
    Column("STARTED", lambda r: clock(r.started_ms)),
    Column("LENGTH", lambda r: length(r.length_ms), right=True),
    Column("STATE", _state, style=_state_style),
    Column("CALLER", lambda r: r.caller or "-", rank=2),
    Column("CALLEE", lambda r: r.callee or "-", rank=3),
    Column("NODE", lambda r: r.node, rank=4),
    Column("CALL", lambda r: r.call or "-", rank=6),
    Column("RULE", lambda r: r.rule, rank=5),
    Column("KEPT UNTIL", lambda r: clock(r.keep_until_ms)[:10], rank=4),
    Column("CALL LASTED", lambda r: "-" if r.call_ms is None else length(r.call_ms), wide=True),
    Column("TENANT", lambda r: r.tenant, wide=True),
    Column("SUITE", lambda r: r.suite, wide=True),
    Column("REASON", lambda r: r.reason or "-", wide=True),
)


@options.examples(
    "pbxctl recordings list --since 2h",
    "pbxctl recordings export 7c9e6679f3d14b1e8a52d0c4b7e1a935 --into /tmp",
)
@click.group(
    cls=options.Nouns,
    places={
        "export": "controller.cli.recordings_export:export",
        "person": "controller.cli.recordings_person:person",
        **{
            verb: f"controller.cli.recording_control:{verb}"
            for verb in ("start", "stop", "pause", "resume")
        },
    },
)
def recordings() -> None:
    """Recordings in the vault: found, heard, verified, held, erased."""


@options.examples(
    "pbxctl recordings list --since 2h --node pbx1",
    "pbxctl recordings list --number +4930123456 -o json",
)
@recordings.command("list")
@options.vault_reading
@click.option("--call", default="", metavar="ID", help="Of this call.")
@click.option("--number", default="", help="Whose caller or callee is this number.")
@click.option("--node", default="", metavar="NAME", help="Recorded on this node.")
@click.option("--rule", default="", metavar="NAME", help="Recorded by this rule.")
@click.option("--tenant", default="", metavar="NAME", help="Of this tenant.")
@click.option("--since", default="", metavar="TIME", help="Started at this time or later.")
@click.option("--until", default="", metavar="TIME", help="Started before this time.")
@click.option("--state", type=click.Choice(STATES), help="Only in this state.")
@click.option("--held", is_flag=True, help="Only those under a legal hold.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="Show so many at most.",
)
@click.pass_obj
def list_(
    session: Session,
    call: str,
    number: str,
    node: str,
    rule: str,
    tenant: str,
    since: str,
    until: str,
    state: str | None,
    held: bool,
    limit: int,
) -> None:
    """The latest recordings first. Numbers are masked."""
    now_s = time.time()
    asked = {
        "call": call,
        "number": number,
        "node": node,
        "rule": rule,
        "tenant": tenant,
        "from_ms": str(moment(since, now_s)) if since else "",
        "until_ms": str(moment(until, now_s)) if until else "",
        "state": state or "",
        "held": "1" if held else "",
        "limit": str(limit),
    }
    query = {key: value for key, value in asked.items() if value}
    vault = session.vault()

    def once() -> None:
        with waiting(session, "asking the vault"):
            found = vault.get(Recordings, "recordings", **query)
        output.show(
            session, found, found.recordings, COLUMNS, lambda r: r.recording,
            empty="no such recording",
        )  # fmt: skip
        if found.next:
            output.note(session, f"the latest {limit}; more with --limit or an earlier --until")

    output.repeat(session, once)


@options.examples("pbxctl recordings show 7c9e6679f3d14b1e8a52d0c4b7e1a935 --peaks")
@recordings.command()
@options.vault_reading
@click.argument("recording")
@click.option("--peaks", is_flag=True, help="Draw how loud it is along its length.")
@click.pass_obj
def show(session: Session, recording: str, peaks: bool) -> None:
    """Everything about one recording but its audio: holds, and the record of its erasure."""
    vault = session.vault(LONG_S if peaks else 15.0)

    def once() -> None:
        with waiting(session, "asking the vault"):
            found = vault.get(RecordingDetail, "recordings", recording)
        if session.output not in ("table", "wide"):
            output.facts(session, found, recording)
            return
        output.facts(session, found.recording, recording)
        lines = [
            f"held since {clock(h.placed_ms)} by {h.who}: {h.reason}"
            + (f" (lifted {clock(h.lifted_ms)} by {h.lifted_by})" if h.lifted_ms else "")
            for h in found.holds
        ]
        if found.erasure:
            lines += [found.erasure.statement, f"signature  {found.erasure.signature}"]
        output.say(session, lines)
        if peaks:
            _draw(session, recording)

    output.repeat(session, once)


def _draw(session: Session, recording: str) -> None:
    terminal = output.console(session)
    columns = max(10, min(terminal.width, 200) - 2)
    with waiting(session, "reading the audio"):
        found = session.vault(LONG_S).get(
            Peaks, "recordings", recording, "peaks", columns=str(columns)
        )
    output.say(session, drawn(found.peaks, found.length_ms))


@options.examples(
    "pbxctl recordings verify 7c9e6679f3d14b1e8a52d0c4b7e1a935",
    "pbxctl recordings list -o name | xargs pbxctl recordings verify",
)
@recordings.command()
@options.vault_reading
@click.argument("names", nargs=-1, required=True, metavar="RECORDING...")
@click.pass_obj
def verify(session: Session, names: tuple[str, ...]) -> int:
    """Open every segment of recordings without hearing them. Exit code 1 when one is damaged."""
    vault = session.vault(LONG_S)
    found = []
    for name in names:
        with waiting(session, f"verifying {name}"):
            found.append(vault.post(Verified, "recordings", name, "verify", body=HoldAsk()))
    output.show(session, found, found, VERIFIED, lambda v: v.recording)
    return 0 if all(v.intact for v in found) else 1


VERIFIED: tuple[Column[Verified], ...] = (
    Column("RECORDING", lambda v: v.recording),
    Column("VERDICT", lambda v: "intact" if v.intact else "DAMAGED",
           style=lambda v: "green" if v.intact else "bold red"),
    Column("SEGMENTS", lambda v: v.chunks, right=True),
    Column("BAD", lambda v: ", ".join(map(str, v.bad)) or "-"),
    Column("WHAT", lambda v: v.words or "-"),
)  # fmt: skip


@options.examples(
    "pbxctl recordings hold 7c9e6679f3d14b1e8a52d0c4b7e1a935 --reason 'case 4711'",
    "pbxctl recordings hold 7c9e6679f3d14b1e8a52d0c4b7e1a935 --lift",
)
@recordings.command()
@options.vault_changing
@click.argument("recording")
@click.option("--reason", default="", metavar="TEXT", help="Why: it is kept with the hold.")
@click.option("--lift", is_flag=True, help="End every hold on it instead.")
@click.pass_obj
def hold(session: Session, recording: str, reason: str, lift: bool) -> None:
    """Keep a recording whatever retention says, until the hold is lifted."""
    if lift:
        session.confirm(f"Lift every hold on {recording}? It may be erased at once then.")
    elif not reason:
        raise UsageError("a hold needs a reason", hint="--reason 'case 4711'")
    _act(session, recording, "hold", HoldAsk(reason, lift, session.dry_run))


@options.examples(
    "pbxctl recordings erase 7c9e6679f3d14b1e8a52d0c4b7e1a935 --reason 'asked by the caller'"
)
@recordings.command()
@options.vault_changing
@click.argument("recording")
@click.option("--reason", required=True, metavar="TEXT", help="Why: it stands in the record.")
@click.pass_obj
def erase(session: Session, recording: str, reason: str) -> None:
    """Destroy a recording's key: no copy of it can be opened any more, by anybody."""
    session.confirm(f"Erase {recording} for good?")
    _act(session, recording, "erase", EraseAsk(reason, session.dry_run))


def _act(session: Session, recording: str, verb: str, ask: HoldAsk | EraseAsk) -> None:
    with waiting(session, "asking the vault"):
        done = session.vault().post(RecordingAction, "recordings", recording, verb, body=ask)
    if session.output in ("json", "yaml"):
        output.dump(session, done)
    elif session.output == "name":
        click.echo(done.recording)
    elif done.dry_run:
        output.note(session, f"{recording} is {done.state}, {done.holds} holds; nothing is changed")
    else:
        output.note(session, f"{recording}: {done.action} done; {done.state}, {done.holds} holds")


KEPT: tuple[Column[Kept], ...] = (
    Column("TENANT", lambda k: k.tenant),
    Column("RULE", lambda k: k.rule or "-"),
    Column("RECORDINGS", lambda k: k.recordings, right=True),
    Column("MIB", lambda k: f"{k.sealed_bytes / (1 << 20):.1f}", right=True),
    Column("HELD", lambda k: k.held, right=True),
    Column("OVERDUE", lambda k: k.overdue, right=True),
    Column("OLDEST", lambda k: clock(k.oldest_ms)[:10]),
    Column("LAST KEPT UNTIL", lambda k: clock(k.last_until_ms)[:10]),
)


@options.examples("pbxctl recordings kept")
@recordings.command()
@options.vault_reading
@click.pass_obj
def kept(session: Session) -> None:
    """What is kept and why: by tenant and rule, with what holds it beyond its time."""
    vault = session.vault()

    def once() -> None:
        with waiting(session, "asking the vault"):
            found = vault.get(KeptReport, "kept")
        output.show(
            session, found, found.kept, KEPT, lambda k: f"{k.tenant}:{k.rule}",
            empty="nothing is kept",
        )  # fmt: skip

    output.repeat(session, once)


READ: tuple[Column[Read], ...] = (
    Column("AT", lambda r: clock(r.at_ms)),
    Column("WHO", lambda r: r.who),
    Column("ROLES", lambda r: r.roles, rank=3),
    Column("FROM", lambda r: r.address, rank=2),
    Column("WHAT", lambda r: r.action),
    Column("RECORDING", lambda r: r.recording or "-"),
    Column("DETAIL", lambda r: re.sub(r'[{}"]', "", r.detail) or "-", rank=4),
)


@options.examples(
    "pbxctl recordings reads --who cert:alice",
    "pbxctl recordings reads --recording 7c9e6679f3d14b1e8a52d0c4b7e1a935",
)
@recordings.command()
@options.vault_reading
@click.option("--recording", default="", metavar="ID", help="Only of this recording.")
@click.option("--who", default="", metavar="NAME", help="Only by this person, as in cert:alice.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="Show so many at most.",
)
@click.pass_obj
def reads(session: Session, recording: str, who: str, limit: int) -> None:
    """Who read what, when and from where, the latest first; refused attempts too."""
    asked = {"recording": recording, "who": who, "limit": str(limit)}
    query = {key: value for key, value in asked.items() if value}
    vault = session.vault()

    def once() -> None:
        with waiting(session, "asking the vault"):
            found = vault.get(Reads, "reads", **query)
        output.show(session, found, found.reads, READ, lambda r: r.who, empty="nobody read it")

    output.repeat(session, once)
