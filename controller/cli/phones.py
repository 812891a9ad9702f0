"""pbxctl phones: the phones of the fleet, their credentials and where each is registered."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from controller.api.shapes import (
    Ask,
    PhoneAddAsk,
    PhoneCredentials,
    Phones,
    PhoneView,
    PhoneZone,
)
from controller.cli import options, output
from controller.cli.output import Column
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.errors import UsageError
from controller.model import MediaPolicy

POLICIES = click.Choice([policy.value for policy in MediaPolicy])
STATE_STYLE = {"ready": "green", "pending": "yellow", "removing": "magenta"}
DISPLAY_SHOWN_CHARS = 40


def _place(view: PhoneView) -> str:
    return ", ".join(place.node for place in view.at) or "-"


def _pending(view: PhoneView) -> str:
    return "; ".join(f"{p.node}: {p.problem}" if p.problem else p.node for p in view.pending)


def _since(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000)) if ms else "-"


COLUMNS: tuple[Column[PhoneView], ...] = (
    Column("PHONE", lambda p: p.name),
    Column("NAME", lambda p: p.display[:DISPLAY_SHOWN_CHARS], rank=3),
    Column("REGION", lambda p: p.region, rank=4),
    Column("STATE", lambda p: p.state, style=lambda p: STATE_STYLE.get(p.state, "")),
    Column("REGISTERED ON", _place),
    Column("SINCE", lambda p: _since(p.at[0].since_ms) if p.at else "-", rank=5),
    Column("BY", lambda p: p.at[0].transport if p.at else "-", rank=6),
    Column("CONTACT", lambda p: p.at[0].contact if p.at else "-", rank=7),
    Column("USER AGENT", lambda p: p.at[0].user_agent if p.at else "-", wide=True),
    Column("POLICY", lambda p: p.policy.value, wide=True),
    Column("CREATED", lambda p: _since(p.created_ms), wide=True),
    Column("ROTATED", lambda p: _since(p.rotated_ms), wide=True),
    Column("PENDING ON", _pending, rank=2),
)


@options.examples(
    "pbxctl phones add 201 --display 'Anna Bauer'",
    "pbxctl phones list",
)
@click.group(cls=options.Nouns)
def phones() -> None:
    """The phones of the fleet: credentials, and where each is registered."""


@options.examples(
    "pbxctl phones list",
    "pbxctl phones list --pending -w 2",
)
@phones.command("list")
@options.reading
@click.option("--region", help="Only phones of this region.")
@click.option("--pending", is_flag=True, help="Only those whose last change waits for a node.")
@click.pass_obj
def list_(session: Session, region: str | None, pending: bool) -> None:
    """Every phone: where it is registered, and nodes that wait for its last change."""
    gate = session.gate()

    def once() -> None:
        with waiting(session, "asking the gate"):
            seen = gate.get(Phones, "phones")
        rows = [
            p
            for p in seen.phones
            if (region is None or p.region == region) and (p.pending or not pending)
        ]
        output.show(
            session, Phones(rows, seen.now_ms), rows, COLUMNS, lambda p: p.name,
            empty="no such phone: pbxctl phones add",
        )  # fmt: skip

    output.repeat(session, once)


@options.examples("pbxctl phones show 201")
@phones.command()
@options.reading
@click.argument("name")
@click.pass_obj
def show(session: Session, name: str) -> None:
    """Everything known about one phone; its password is not."""
    gate = session.gate()

    def once() -> None:
        with waiting(session, "asking the gate"):
            view = gate.get(PhoneView, "phones", name)
        if session.output in ("table", "wide"):
            output.show(session, view, [view], COLUMNS, lambda p: p.name)
        else:
            output.facts(session, view, view.name)

    output.repeat(session, once)


_files = click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write the provisioning files (baresip, Linphone, desk phone) there, mode 0600.",
)
_qr = click.option(
    "--qr",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the QR code there too: .png or .svg.",
)


@options.examples(
    "pbxctl phones add 201 --display 'Anna Bauer' --qr 201.png",
    "pbxctl phones add 202 --region west --into phone-202/",
)
@phones.command()
@options.changing
@click.argument("name")
@click.option("--region", default="", help="Its region (default: the config's first).")
@click.option("--display", default="", metavar="TEXT", help="The name that called people see.")
@click.option(
    "--policy",
    type=POLICIES,
    default=MediaPolicy.REQUIRE.value,
    show_default=True,
    help="Calls without encrypted media: hung up, or passed with an alarm.",
)
@_files
@_qr
@click.pass_obj
def add(
    session: Session,
    name: str,
    region: str,
    display: str,
    policy: str,
    into: Path | None,
    qr: Path | None,
) -> None:
    """Make a phone. Its password is shown now, and never again."""
    _check_qr(qr)
    ask = PhoneAddAsk(
        name=name,
        region=region,
        display=display,
        policy=MediaPolicy(policy),
        dry_run=session.dry_run,
    )
    with waiting(session, "asking the gate"):
        made = session.gate().post(PhoneCredentials, "phones", body=ask)
    _print(session, made, into, qr)


@options.examples("pbxctl phones rotate 201 --qr 201.png")
@phones.command()
@options.changing
@click.argument("name")
@_files
@_qr
@click.pass_obj
def rotate(session: Session, name: str, into: Path | None, qr: Path | None) -> None:
    """Give a phone a new password; the old one ends as each node takes the change."""
    _check_qr(qr)
    session.confirm(f"Make the password of {name} invalid?")
    with waiting(session, "asking the gate"):
        made = session.gate().post(
            PhoneCredentials, "phones", name, "rotate", body=Ask(dry_run=session.dry_run)
        )
    _print(session, made, into, qr)


@options.examples("pbxctl phones remove 201 202")
@phones.command()
@options.changing
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def remove(session: Session, names: tuple[str, ...]) -> None:
    """Remove phones. A call that one of them is on goes on until it ends."""
    session.confirm(f"Remove {', '.join(names)}?")
    gate = session.gate()
    for name in names[1:]:  # one that is not known must not leave those before it removed
        gate.get(PhoneView, "phones", name)
    would = "would be removed" if session.dry_run else "is removed as its nodes take the change"
    done: list[PhoneView] = []
    with output.several(session, done, lambda view: view.name):
        for name in names:
            ask = Ask(dry_run=session.dry_run)
            view = gate.post(PhoneView, "phones", name, "remove", body=ask)
            done.append(view)
            output.note(session, f"{view.name} {would}: {_pending(view) or 'no node has it'}")


@options.examples("pbxctl phones dns --region west")
@phones.command()
@options.printing
@click.option("--region", default="", help="Of its phones (default: the config's first).")
@click.pass_obj
def dns(session: Session, region: str) -> None:
    """DNS SRV records by which phones find the nodes, as lines of a zone file."""
    with waiting(session, "asking the gate"):
        asked = session.gate().get(PhoneZone, "phone-dns", region=region)
    if session.output in ("json", "yaml"):
        output.dump(session, asked)
    else:
        click.echo(asked.zone, nl=False)


def _check_qr(qr: Path | None) -> None:
    if qr is not None and qr.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"{qr} is neither .png nor .svg")


def _print(session: Session, made: PhoneCredentials, into: Path | None, qr: Path | None) -> None:
    """Shows the credentials before any file is tried: a full disk must not swallow them."""
    if session.output in ("json", "yaml"):
        output.dump(session, made)
    elif session.output == "name":
        click.echo(made.phone.name)
    elif made.dry_run:
        output.note(session, f"{made.phone.name}: nothing was changed")
    else:
        facts = {
            "phone": f"{made.phone.name}, region {made.phone.region}",
            "realm": made.realm,
            "password": made.password,
        }
        output.say(session, [f"{key:<9} {value}" for key, value in facts.items()])
        click.echo(_terminal_code(made.uri), nl=False)
        output.note(session, "The password is shown once and kept nowhere: note it or scan it.")
    for path in _write_all(made, into, qr) if made.password else []:
        output.note(session, f"{path} written")


def _terminal_code(text: str) -> str:
    import io

    import segno

    out = io.StringIO()
    segno.make(text, error="m", micro=False).terminal(out=out, border=2, compact=True)
    return out.getvalue() if sys.stdout.isatty() else ""


def _write_all(made: PhoneCredentials, into: Path | None, qr: Path | None) -> list[Path]:
    written = []
    if into is not None:
        for name, text in made.files.items():
            written.append(_write(into / name, text.encode()))
    if qr is not None:
        import io

        import segno

        out = io.BytesIO()
        kind = qr.suffix.lower().removeprefix(".")
        segno.make(made.uri, error="m", micro=False).save(out, kind=kind, scale=8)
        written.append(_write(qr, out.getvalue()))
    return written


def _write(path: Path, data: bytes) -> Path:
    """For its owner alone, from the first byte on. UsageError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}",
            hint="the phone was made all the same: pbxctl phones rotate gives it a new password",
        ) from error
    return path
