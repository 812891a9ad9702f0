"""pbxctl up and pbxctl run: the roles themselves."""

from __future__ import annotations

import logging
import sys

import click

from controller.cli import options
from controller.cli.session import Session

ROLES = ("driver", "steward", "gate", "agent")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _log(session: Session) -> None:
    logging.basicConfig(
        level=logging.DEBUG if session.verbose else logging.INFO,
        format=LOG_FORMAT,
        stream=sys.stderr,
    )


@click.command()
@options.plain
@click.pass_obj
def up(session: Session) -> int:
    """Run every role on this machine, with a private redis-server if the config names none."""
    config = session.config()
    _log(session)
    from controller import supervisor

    return supervisor.up(config)


@click.command()
@options.plain
@click.argument("role", type=click.Choice(ROLES))
@click.pass_obj
def run(session: Session, role: str) -> int:
    """Run one role until it is told to stop (SIGTERM or Ctrl-C)."""
    config = session.config()
    _log(session)
    from controller import roles

    return roles.run(role, config)
