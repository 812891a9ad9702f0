"""pbxctl render: a node's or an edge's whole config, made from dialplans/."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from controller.cli import options, output
from controller.cli.session import Session
from controller.errors import PbxctlError


def _names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    try:
        config = (ctx.find_object(Session) or Session()).config()
    except PbxctlError:
        return []
    known = [*config.nodes, *config.edges]
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]


@options.examples(
    "pbxctl render pbx1",
    "pbxctl render pbx1 --into /etc/asterisk",
    "pbxctl render pbx1 --at /etc/asterisk",
    "pbxctl render pbx1 --dry-run",
)
@click.command()
@options.changing
@click.argument("name", metavar="NODE", shell_complete=_names)
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where the files go (default: rendered/NODE in state_dir).",
)
@click.option(
    "--at",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where they will stand, on the PBX's machine (default: where they go).",
)
@click.pass_obj
def render(session: Session, name: str, into: Path | None, at: Path | None) -> None:
    """Write the PBX config of NODE (or an edge) and say which files changed."""
    from controller.config import make_state_dir
    from controller.render.files import render as rendered
    from controller.render.write import write

    config = session.config()
    made = rendered(config, name, into, at)
    if not session.dry_run and into is None:
        # pbxctl's own folder, as `up` would make it: what lies below is not for others.
        make_state_dir(config)
    paths = write(made, dry_run=session.dry_run)
    verb = "would be written" if session.dry_run else "written"
    if session.output in ("json", "yaml"):
        output.dump(session, {"node": name, "folder": str(made.folder), "files": list(paths)})
    elif session.output == "name":
        for path in paths:
            click.echo(made.folder / path)
    else:
        for path in paths:
            click.echo(f"{made.folder / path} {verb}")
        if not paths:
            output.note(session, f"{made.folder} is up to date")
