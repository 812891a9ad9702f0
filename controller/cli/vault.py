"""pbxctl vault: the vault's keys and store, for those who answer for them."""

from __future__ import annotations

from pathlib import Path

import click

from controller.api.recording_shapes import RotateAsk, Rotated, VaultStatus, VaultWork
from controller.cli import options, output
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.errors import PbxctlError
from controller.vault.found import Found

#: a check reads every body of the store
CHECK_S = 86_400.0
ROTATE_S = 3600.0
PROGRESS_S = 2.0


@options.examples("pbxctl vault status")
@click.group(cls=options.Nouns)
def vault() -> None:
    """The vault: its keys, its store, what it has lost."""


@options.examples(
    "pbxctl vault status",
    "pbxctl vault status --as alice -o json",
)
@vault.command()
@options.vault_reading
@click.pass_obj
def status(session: Session) -> None:
    """Keys by tenant and month, what waits, what is kept, lost or overdue."""
    where = session.vault()

    def once() -> None:
        with waiting(session, "asking the vault"):
            found = where.get(VaultStatus, "vault")
        if session.output not in ("table", "wide"):
            output.facts(session, found, "vault")
            return
        lines = [f"{name:<15} {value}" for name, value in _facts(found)]
        lines += [
            f"keys            {p.tenant}, {p.period}: {p.keys} for {p.recordings} recordings"
            for p in found.periods
        ]
        output.say(session, lines)

    output.repeat(session, once)


def _share(session: Session, work: str) -> float | None:
    """Over a connection of its own: that of the command waits for the end."""
    try:
        at = session.vault(PROGRESS_S).get(VaultWork, "vault", "work")
    except PbxctlError:
        return None
    return at.done / at.of if at.work == work and at.of else None


def _facts(found: VaultStatus) -> list[tuple[str, str]]:
    states = ", ".join(f"{count} {state}" for state, count in sorted(found.states.items()))
    free = "" if found.free_bytes is None else f", {found.free_bytes >> 20} MiB free"
    return [
        ("store", found.store + free),
        ("recordings", states or "none"),
        ("held", str(found.held)),
        ("overdue", str(found.overdue)),
        ("lost", str(found.lost)),
        ("keys guarded by", found.provider),
        ("sealed to", f"{found.pairs[0]}, {len(found.pairs)} pairs"),
        ("key slots", f"{found.slots}{', rotating' if found.rotating else ''}"),
        ("intake", f"{found.intake_waiting} waiting, {found.bad_envelopes} open with no key"),
        ("erasure key", found.erasure_key),
    ]


@options.examples(
    "pbxctl vault rotate --dry-run",
    "pbxctl vault rotate --yes",
)
@vault.command()
@options.vault_changing
@click.option(
    "--pair/--no-pair",
    default=True,
    help="Have agents seal to a new X-Wing pair as well (default), or not.",
)
@click.pass_obj
def rotate(session: Session, pair: bool) -> None:
    """Wrap every key slot under new keys and destroy the old; no recording is touched."""
    session.confirm("Rotate the vault's keys?")
    with waiting(session, "rotating", lambda: _share(session, "rotate")):
        done = session.vault(ROTATE_S).post(
            Rotated, "vault", "rotate", body=RotateAsk(pair, session.dry_run)
        )
    if session.output in ("json", "yaml"):
        output.dump(session, done)
    elif done.dry_run:
        output.note(session, f"{done.slots} key slots would be wrapped anew")
    else:
        to = f"; agents seal to {done.pair} from now on" if done.pair else ""
        output.note(session, f"{done.changed} of {done.slots} key slots are wrapped anew{to}")


@options.examples("pbxctl vault check")
@vault.command()
@options.vault_reading
@click.pass_obj
def check(session: Session) -> int:
    """Read every body and compare it with what was stored. Exit code 1 when something is lost."""
    with waiting(session, "reading the whole store", lambda: _share(session, "check")):
        found = session.vault(CHECK_S).post(Found, "vault", "check", body=RotateAsk())
    if session.output not in ("table", "wide"):
        output.facts(session, found, "check")
    else:
        output.say(
            session,
            [
                f"{found.checked} recordings checked, {found.lost_count} lost",
                *(f"{recording}  {what}" for recording, what in found.lost.items()),
                *([f"{found.stray_slots} key slots of no recording"] if found.stray_slots else []),
                *([f"{found.left_over} bodies of erased recordings deleted"]
                  if found.left_over else []),
            ],
        )  # fmt: skip
    return 1 if found.lost_count else 0


@options.examples(
    "pbxctl vault rekey --to pbxctl.new.yaml --dry-run",
    "pbxctl vault rekey --to pbxctl.new.yaml --yes",
)
@vault.command()
@options.changing
@click.option(
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The config as it shall be: vault.keys names the new provider, or its new passphrase.",
)
@click.pass_obj
def rekey(session: Session, to: Path) -> None:
    """Have the vault's keys guarded by another provider or passphrase, with the vault stopped."""
    from controller.config_file import load
    from controller.vault.rekeying import rekey as change

    old, new = session.config(), load(to)
    session.confirm("Wrap the vault's keys anew?")
    with waiting(session, "wrapping"):
        done = change(old, new, dry_run=session.dry_run)
    if session.output in ("json", "yaml"):
        output.dump(session, done)
        return
    what = "the key file's passphrase" if done.what == "passphrase" else f"{done.keys} keys"
    way = f"from {done.before} to {done.after}"
    if done.dry_run:
        output.note(session, f"{what} would change, {way}")
        return
    output.note(session, f"{what} changed, {way}" if done.done else f"{what}: changed before")
    output.note(session, f"put {to} in the config's place before the vault starts")
