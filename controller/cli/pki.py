"""pbxctl pki: the certificates of the fleet's machines and of those who operate it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from controller.access.roles import Role
from controller.cli import options, output
from controller.cli.output import Column
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.config import Config
from controller.errors import NotFound, UsageError
from controller.pki import requests
from controller.pki.store import Kept, Store, open_store, person
from controller.pki.wanted import wanted

DAY_S = 86_400


@options.examples(
    "pbxctl pki list",
    "pbxctl pki issue alice --role operator --role auditor",
)
@click.group(cls=options.Nouns)
def pki() -> None:
    """The fleet's authorities and certificates."""


def _days(kept: Kept) -> int:
    return int(kept.expires_s(dt.datetime.now(dt.UTC)) // DAY_S)


COLUMNS: tuple[Column[Kept], ...] = (
    Column("AUTHORITY", lambda k: k.authority),
    Column("NAME", lambda k: k.name),
    Column("ROLES", lambda k: ", ".join(k.roles) or "-"),
    Column("DAYS LEFT", lambda k: str(_days(k))),
    Column("ENDS", lambda k: f"{k.certificate.not_valid_after_utc:%Y-%m-%d}"),
    Column("SERIAL", lambda k: f"{k.certificate.serial_number:x}", wide=True),
)


@options.examples(
    "pbxctl pki list",
    "pbxctl pki list -o json",
)
@pki.command("list")
@options.printing
@click.pass_obj
def list_(session: Session) -> None:
    """Every certificate and how long it lasts."""
    kept = open_store(session.config()).kept()
    data = [
        {
            "authority": k.authority,
            "name": k.name,
            "roles": list(k.roles),
            "expires": k.certificate.not_valid_after_utc.isoformat(),
            "expires_s": int(k.expires_s(dt.datetime.now(dt.UTC))),
            "serial": f"{k.certificate.serial_number:x}",
        }
        for k in kept
    ]
    output.show(
        session, data, kept, COLUMNS, lambda k: f"{k.authority}/{k.name}",
        empty="no certificates: pbxctl pki renew makes them",
    )  # fmt: skip


@options.examples(
    "pbxctl pki issue alice",
    "pbxctl pki issue bob --role auditor",
)
@pki.command()
@options.changing
@click.argument("name")
@click.option(
    "--role",
    "roles",
    type=click.Choice([role.value for role in Role]),
    multiple=True,
    default=[Role.OPERATOR.value],
    show_default=True,
    help="What its owner may; may be repeated.",
)
@click.pass_obj
def issue(session: Session, name: str, roles: tuple[str, ...]) -> None:
    """Make a certificate with which the person NAME reaches gate and vault."""
    config = session.config()
    store, want = open_store(config), person(name, tuple(dict.fromkeys(roles)))
    if store.certificate("people", name).exists():
        raise UsageError(
            f"{name} has a certificate", hint=f"pbxctl pki renew {name}, or revoke it first"
        )
    if not session.dry_run:
        store.renew([want], dt.datetime.now(dt.UTC))
    verb = "would be made" if session.dry_run else "is made"
    lines = [f"{store.certificate('people', name)} {verb}, its key beside it."]
    if config.gate.listen != "unix":
        lines.append(_next(store, name, config))
    output.say(session, lines)


def _next(store: Store, name: str, config: Config) -> str:
    vault = f" --vault https://{config.vault.listen}" if config.vault else ""
    return (
        f"Give both to {name} with {store.ca('control')}, and there: pbxctl context add FLEET "
        f"--gate https://{config.gate.listen}{vault} --cert {name}.pem --key {name}.key --ca ca.pem"
    )


@options.examples(
    "pbxctl pki renew",
    "pbxctl pki renew sip/pbx1",
)
@pki.command()
@options.changing
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_obj
def renew(session: Session, names: tuple[str, ...]) -> None:
    """Make what is missing and renew what is due; with NAME, that one now, due or not."""
    config = session.config()
    store = open_store(config)
    asked = wanted(config)
    if names:
        asked = [w for w in asked if {w.name, f"{w.authority}/{w.name}"} & set(names)]
        people = [k for k in store.kept() if k.authority == "people" and k.name in names]
        asked += [person(k.name, k.roles) for k in people]
        found = {w.name for w in asked} | {f"{w.authority}/{w.name}" for w in asked}
        if unknown := sorted(set(names) - found):
            raise NotFound(f"there is no certificate {', '.join(unknown)}", hint="pbxctl pki list")
    if session.dry_run:
        output.say(session, [f"{w.authority}/{w.name} would be checked" for w in asked])
        return
    with waiting(session, f"looking at {len(asked)} certificates"):
        made = store.renew(asked, dt.datetime.now(dt.UTC), force=bool(names))
    output.say(session, [f"{w.authority}/{w.name} is made" for w in made])
    if not made:
        output.note(session, "nothing is due")


@options.examples("pbxctl pki revoke alice")
@pki.command()
@options.changing
@click.argument("name")
@click.pass_obj
def revoke(session: Session, name: str) -> None:
    """Have gate and vault refuse the certificate of the person NAME from now on."""
    store = open_store(session.config())
    session.confirm(f"Revoke the certificate of {name}?")
    if not session.dry_run:
        store.revoke("people", person(name).name, dt.datetime.now(dt.UTC))
        output.say(session, [f"people/{name} is revoked; the gate refuses it within seconds."])


@options.examples("pbxctl pki request pbx1 -f pbx1.request")
@pki.command()
@options.changing
@click.argument("machine", metavar="NODE")
@click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    help="Where the request goes.",
)
@click.pass_obj
def request(session: Session, machine: str, path: Path) -> None:
    """On a node: make its keys, and a request that the authorities sign."""
    made = b"" if session.dry_run else requests.request(session.config(), machine)
    _write_new(session, path, made)
    output.say(session, [f"Next, where the authorities' keys are: pbxctl pki sign {path.name} "
                         f"-f {machine}.signed"])  # fmt: skip


@options.examples("pbxctl pki sign pbx1.request -f pbx1.signed")
@pki.command("sign")
@options.changing
@click.argument("requested", type=click.Path(path_type=Path), metavar="REQUEST")
@click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    help="Where the certificates go.",
)
@click.pass_obj
def sign(session: Session, requested: Path, path: Path) -> None:
    """Where the authorities' keys are: sign the request of a node."""
    data, made = _read(requested), b""
    if not session.dry_run:
        _check_new(path)  # before the keys that the authority had are dropped
        made = requests.sign(session.config(), data, dt.datetime.now(dt.UTC))
    _write_new(session, path, made)
    output.say(session, [f"Next, on the node: pbxctl pki accept {path.name}"])


@options.examples("pbxctl pki accept pbx1.signed")
@pki.command()
@options.changing
@click.argument("signed", type=click.Path(path_type=Path), metavar="SIGNED")
@click.pass_obj
def accept(session: Session, signed: Path) -> None:
    """On a node: keep the certificates that were signed for it."""
    data = _read(signed)
    if session.dry_run:
        output.say(session, [f"{signed} would be kept"])
        return
    kept = requests.accept(session.config(), data)
    output.say(session, [f"{each} is kept" for each in kept])


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(requests.FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _check_new(path: Path) -> None:
    if path.exists() or not path.parent.is_dir():
        why = "File exists" if path.exists() else "no such folder"
        raise UsageError(f"{path} cannot be written: {why}", hint="name another file")


def _write_new(session: Session, path: Path, data: bytes) -> None:
    """Never over a file that is there."""
    if session.dry_run:
        output.say(session, [f"{path} would be written"])
        return
    try:
        with path.open("xb") as file:
            file.write(data)
    except OSError as error:
        hint = "name another file" if isinstance(error, FileExistsError) else ""
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint=hint) from error
    output.say(session, [f"{path} is written; it holds no secret."])
