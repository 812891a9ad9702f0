"""pbxctl route: which node a call would go to, and why."""

from __future__ import annotations

import click

from controller.api.shapes import RouteAnswer, RouteAsk
from controller.cli import options, output
from controller.cli.calls import PRIORITIES
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.errors import Refused
from controller.model import Priority


@options.examples(
    "pbxctl route 4001",
    "pbxctl route --from 201 --region west 4001",
)
@click.command()
@options.reading
@click.argument("number")
@click.option("--from", "caller", default="", metavar="NUMBER", help="The caller.")
@click.option("--region", default="", help="Region to ask from (default: the config's first).")
@click.option("--priority", type=PRIORITIES, help="Instead of the number plan's priority.")
@click.option(
    "--dry-run/--place",
    "dry",
    default=True,
    show_default=True,
    help="Only ask, or make a reservation as an edge would; unconfirmed it ends by itself.",
)
@click.pass_obj
def route(
    session: Session, number: str, caller: str, region: str, priority: str | None, dry: bool
) -> None:
    """Where a call to NUMBER would go, and why. Exit code 4 when no node takes it."""
    gate = session.gate()
    ask = RouteAsk(
        dry_run=dry or session.dry_run,
        to=number,
        caller=caller,
        region=region,
        priority=Priority(priority) if priority else None,
    )

    def once() -> None:
        with waiting(session, "asking the gate"):
            answer = gate.post(RouteAnswer, "route", body=ask)
        _print(session, answer)
        if answer.verdict != "place" and session.watch_s is None:
            raise Refused(
                f"no node takes the call: {answer.reason}",
                hint="see `pbxctl nodes list` for each node's state",
            )

    output.repeat(session, once)


def _print(session: Session, answer: RouteAnswer) -> None:
    if session.output in ("json", "yaml"):
        output.dump(session, answer)
    elif answer.verdict == "place":
        if session.output == "name":
            click.echo(answer.node)
            return
        verb = "would go" if answer.dry_run else "is placed"
        service = f", service {answer.service}" if answer.service else ""
        words = [f"The call {verb} to {answer.node} ({answer.address}){service}: {answer.reason}."]
        if answer.placement:
            words.append(f"Its placement is {answer.placement}.")
        output.say(session, words)
    elif session.output != "name":
        output.say(
            session,
            [f"The caller would get SIP {answer.cause}, Retry-After {answer.retry_after_s} s."],
        )
