"""pbxctl up and pbxctl run: the roles themselves."""

from __future__ import annotations

import os

import click

from controller.cli import options
from controller.cli.completion import node_names
from controller.cli.session import Session
from controller.errors import UsageError

ROLES = ("driver", "steward", "gate", "agent", "vault")


def _verbosity(session: Session) -> None:
    if session.verbose:  # the roles and their children read it: controller/log.py
        os.environ["PBXCTL_LOG"] = "debug"


@options.examples(
    "pbxctl up",
    "pbxctl --config /etc/pbxctl/pbxctl.yaml up",
)
@click.command()
@options.plain
@click.pass_obj
def up(session: Session) -> int:
    """Run every role on this machine, with a private Redis if none is named."""
    config = session.config()
    _verbosity(session)
    from controller import supervisor

    return supervisor.up(config)


@options.examples(
    "pbxctl run driver",
    "pbxctl run agent --node pbx1",
)
@click.command()
@options.plain
@click.argument("role", metavar="ROLE", type=click.Choice(ROLES))
@click.option(
    "--node",
    "names",
    multiple=True,
    metavar="NAME",
    help="agent: a node or edge of this machine; may be repeated (default: all of the config).",
    shell_complete=node_names,
)
@click.pass_obj
def run(session: Session, role: str, names: tuple[str, ...]) -> int:
    """Run one role until SIGTERM: driver, steward, gate, agent or vault."""
    if names and role != "agent":
        raise UsageError("--node goes with the agent alone", hint="drivers share nodes by lease")
    config = session.config()
    _verbosity(session)
    from controller.roles import start

    return start.run(role, config, names or None)
