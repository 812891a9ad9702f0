"""pbxctl doctor: what is wrong, and the exact fix."""

from __future__ import annotations

import asyncio

import click

from controller.cli import options, output
from controller.cli.output import Column
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.config import Config
from controller.doctor.finding import Finding, Level, fail, ok
from controller.errors import ConfigError

_STYLE = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
COLUMNS: tuple[Column[Finding], ...] = (
    Column("", lambda f: f.level.value, style=lambda f: _STYLE[f.level]),
    Column("ABOUT", lambda f: f.about),
    Column("CHECK", lambda f: f.check),
    Column("FINDING", lambda f: f"{f.what.rstrip('.')}. Fix: {f.fix}" if f.fix else f.what),
)


@options.examples(
    "pbxctl doctor",
    "pbxctl doctor --problems",
)
@click.command()
@options.reading
@click.option("--problems", is_flag=True, help="Only what is not well.")
@click.pass_obj
def doctor(session: Session, problems: bool) -> int:
    """Check config, secrets, certificates, Redis, nodes and ports. Exit code 1 on a failure."""
    failed = False

    def once() -> None:
        nonlocal failed
        with waiting(session, "looking at everything"):
            found = _look(session)
        failed = any(f.level is Level.FAIL for f in found)
        shown = [f for f in found if f.level is not Level.OK] if problems else found
        output.show(
            session, shown, shown, COLUMNS, lambda f: f"{f.level}:{f.about}:{f.check}",
            empty="all is well",
        )  # fmt: skip
        count = {level: sum(f.level is level for f in found) for level in Level}
        output.note(session, ", ".join(f"{n} {level}" for level, n in count.items()))

    output.repeat(session, once)
    return 1 if failed else 0


def _look(session: Session) -> list[Finding]:
    try:
        config = session.config()
    except ConfigError as error:
        return [fail("config", "file", error.message, error.hint or "mend that line")]
    nodes = f"{len(config.nodes)} nodes in {len(config.regions)} regions"
    return [ok("config", "file", f"{config.source}: {nodes}"), *asyncio.run(_all(config))]


async def _all(config: Config) -> list[Finding]:
    from controller.doctor.certificates import check_certificates
    from controller.doctor.edges import check_edges
    from controller.doctor.host import check_host
    from controller.doctor.nodes import check_nodes
    from controller.doctor.picture import check_picture
    from controller.doctor.recordings import check_recordings
    from controller.doctor.vault import check_vault

    host, edges, recordings, vault, picture, nodes = await asyncio.gather(
        asyncio.to_thread(check_host, config),
        asyncio.to_thread(check_edges, config),
        asyncio.to_thread(check_recordings, config),
        asyncio.to_thread(check_vault, config),
        check_picture(config),
        check_nodes(config),
    )
    certificates = check_certificates(config)
    here = [*host, *edges, *recordings, *vault, *certificates]
    return [*here, *picture, *sorted(nodes, key=lambda f: f.about)]
