"""pbxctl context: short names for fleets, on this machine or behind a gate."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from controller.cli import contexts, options, output
from controller.cli.contexts import Context
from controller.cli.output import Column
from controller.cli.session import Session
from controller.errors import UsageError


@options.examples(
    "pbxctl context add lab --file ~/lab/pbxctl.yaml",
    "pbxctl context use lab",
)
@click.group(cls=options.Nouns)
def context() -> None:
    """Which fleet the commands speak to."""


def _columns(current: str) -> tuple[Column[Context], ...]:
    return (
        Column("", lambda c: "*" if c.name == current else ""),
        Column("CONTEXT", lambda c: c.name),
        Column("CONFIG OR GATE", lambda c: c.config or c.gate),
    )


@options.examples("pbxctl context list")
@context.command("list")
@options.printing
@click.pass_obj
def list_(session: Session) -> None:
    """Every context; a star marks the one in use."""
    known = contexts.read()
    output.show(
        session,
        {"current": known.current, "contexts": [output.as_data(c) for c in known.contexts]},
        known.contexts,
        _columns(known.current),
        lambda c: c.name,
        empty="no contexts: pbxctl context add",
    )


@options.examples("pbxctl context use lab")
@context.command()
@options.plain
@click.argument("name")
def use(name: str) -> None:
    """Make a context the one in use."""
    known = contexts.read()
    known.get(name)
    contexts.write(msgspec.structs.replace(known, current=name))


@options.examples(
    "pbxctl context add lab --file ~/lab/pbxctl.yaml",
    "pbxctl context add hq --gate https://192.0.2.1:8443 --cert al.pem --key al.key --ca ca.pem",
)
@context.command()
@options.plain
@click.argument("name")
@click.option("--file", "config", default="", metavar="FILE", help="A config file on this machine.")
@click.option("--gate", default="", metavar="URL", help="A gate: https://host:port.")
@click.option("--cert", default="", metavar="PEM", help="Your certificate for the gate.")
@click.option("--key", default="", metavar="PEM", help="Its key.")
@click.option("--ca", default="", metavar="PEM", help="The authority that signed the gate's.")
@click.option("--vault", default="", metavar="URL", help="The fleet's vault: https://host:port.")
def add(name: str, config: str, gate: str, cert: str, key: str, ca: str, vault: str) -> None:
    """Add a context, or replace the one of that name; the first one is in use at once."""
    if bool(config) == bool(gate):
        raise UsageError("a context has --file or --gate, one of the two")
    if gate and not (gate.startswith("https://") and cert and key and ca):
        raise UsageError(
            "--gate takes https://host:port, with --cert, --key and --ca",
            hint="the gate knows its clients by their certificates",
        )
    if vault and not (gate and vault.startswith("https://")):
        raise UsageError("--vault is https://host:port and goes with --gate")
    known = contexts.read()
    cert, key, ca = map(_absolute, (cert, key, ca))
    made = Context(name, _absolute(config), gate, cert, key, ca, vault)
    others = tuple(c for c in known.contexts if c.name != name)
    contexts.write(contexts.Contexts(known.current or name, (*others, made)))


@options.examples("pbxctl context remove lab")
@context.command()
@options.plain
@click.argument("name")
def remove(name: str) -> None:
    """Remove a context; the files it names stay."""
    known = contexts.read()
    known.get(name)
    left = tuple(c for c in known.contexts if c.name != name)
    contexts.write(contexts.Contexts("" if known.current == name else known.current, left))


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path else ""
