"""pbxctl alarms: calls that were not encrypted, and whatever else a person should see."""

from __future__ import annotations

import click

from controller.api.shapes import Alarms
from controller.cli import options, output
from controller.cli.calls import stamp
from controller.cli.output import Column
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.fleet.state import Alarm

COLUMNS: tuple[Column[Alarm], ...] = (
    Column("TIME", lambda a: stamp(a.t)),
    Column("KIND", lambda a: a.kind),
    Column("NODE", lambda a: a.node),
    Column("CALL", lambda a: a.call, rank=1),
    Column("REASON", lambda a: a.reason, fold_to=24),
)


@options.examples(
    "pbxctl alarms",
    "pbxctl alarms --limit 10 -w 5",
)
@click.command()
@options.reading
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    default=100,
    show_default=True,
    help="Show so many at most.",
)
@click.pass_obj
def alarms(session: Session, limit: int) -> None:
    """What a person should see, the newest first: calls whose media was found in clear."""
    gate = session.gate()

    def once() -> None:
        with waiting(session, "asking the gate"):
            seen = gate.get(Alarms, "alarms", limit=str(limit))
        output.show(session, seen, seen.alarms, COLUMNS, lambda a: a.call, empty="no alarms")

    output.repeat(session, once)
