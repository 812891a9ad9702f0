"""pbxctl recordings export: a recording as a file that any player takes."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from controller.cli import options, output
from controller.cli.audio_file import fetch
from controller.cli.recordings import LONG_S
from controller.cli.session import Session
from controller.cli.times import place
from controller.errors import UsageError


class Exported(msgspec.Struct, frozen=True):
    recording: str
    file: str
    bytes: int
    dry_run: bool


@options.examples(
    "pbxctl recordings export 7c9e6679f3d14b1e8a52d0c4b7e1a935 --into /tmp",
    "pbxctl recordings export 7c9e6679f3d14b1e8a52d0c4b7e1a935 --from 1:30 --to 2:00 --opus",
)
@click.command()
@options.vault_changing
@click.argument("recording")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file (default: RECORDING.wav here).",
)
@click.option("--from", "first", default="", metavar="TIME", help="Begin here, as in 1:30.")
@click.option("--to", "last", default="", metavar="TIME", help="End here.")
@click.option("--opus", is_flag=True, help="Opus instead of WAV; needs ffmpeg on this machine.")
@click.pass_obj
def export(
    session: Session, recording: str, into: Path | None, first: str, last: str, opus: bool
) -> None:
    """Write a recording, or a piece of it, to a file. The vault logs who did."""
    file = into or Path(f"{recording}.{'opus' if opus else 'wav'}")
    if file.is_dir():
        file = file / f"{recording}.{'opus' if opus else 'wav'}"
    piece = {"from_ms": first, "to_ms": last}
    if first and last and place(last) <= place(first):
        raise UsageError(f"--to {last} is not after --from {first}")
    if file.exists():
        session.confirm(f"Write over {file}?")
    size = 0
    if not session.dry_run:
        asked = {key: str(place(value)) for key, value in piece.items() if value}
        size = fetch(session, session.vault(LONG_S), recording, file, opus=opus, **asked)
    done = Exported(recording, str(file), size, session.dry_run)
    if session.output in ("json", "yaml"):
        output.dump(session, done)
    elif session.output == "name":
        click.echo(str(file))
    else:
        verb = "would be written" if session.dry_run else f"written, {size} bytes"
        output.note(session, f"{file} {verb}")
