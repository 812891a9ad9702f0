"""pbxctl recordings person: all that the vault has of one person."""

from __future__ import annotations

import json
from pathlib import Path

import click

from controller.api.client import Gate
from controller.api.recording_shapes import PersonAsk, Recordings, RecordingView
from controller.cli import options, output
from controller.cli.audio_file import fetch
from controller.cli.recordings import COLUMNS, LONG_S
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.errors import CommandRefused, UsageError

INDEX = "recordings.json"
READABLE = ("growing", "complete", "partial")


@options.examples(
    "pbxctl recordings person +4930123456",
    "pbxctl recordings person +4930123456 --export person/",
)
@click.command()
@options.vault_changing
@click.argument("number")
@click.option(
    "--export",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help=f"Write {INDEX} and the audio of each there.",
)
@click.pass_obj
def person(session: Session, number: str, folder: Path | None) -> int:
    """Every recording whose caller or callee is NUMBER, numbers in clear; logged like a read."""
    vault = session.vault(LONG_S)
    with waiting(session, "asking the vault"):
        found = _all(vault, number)
    output.show(
        session, found, found, COLUMNS, lambda r: r.recording, empty="nothing of that number"
    )
    if folder is None or session.dry_run:
        return 0
    if folder.exists() and any(folder.iterdir()):
        session.confirm(f"{folder} is not empty. Write into it?")
    return _export(session, vault, found, folder)


def _all(vault: Gate, number: str) -> list[RecordingView]:
    found: list[RecordingView] = []
    before = ""
    while True:
        page = vault.post(Recordings, "person", body=PersonAsk(number, before))
        found += page.recordings
        before = page.next
        if not before:
            return found


def _export(session: Session, vault: Gate, found: list[RecordingView], folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(output.as_data(found), indent=2) + "\n"
        index = folder / INDEX
        index.touch(0o600)
        index.write_text(text)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error
    heard = 0
    for view in found:
        if view.state not in READABLE:
            continue
        try:
            fetch(session, vault, view.recording, folder / f"{view.recording}.wav", opus=False)
        except CommandRefused as error:
            output.note(session, f"without the audio: {error.message}")
            return error.exit_code
        heard += 1
    output.note(session, f"{folder}: {len(found)} recordings, {heard} with audio")
    return 0
