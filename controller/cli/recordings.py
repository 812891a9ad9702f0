"""pbxctl recordings: which calls are recorded, and what became of the recordings."""

from __future__ import annotations

import click

from controller.cli import options

PLACES = {
    verb: f"controller.cli.recording_control:{verb}"
    for verb in ("start", "stop", "pause", "resume")
}


@click.group(cls=options.Nouns, places=PLACES)
def recordings() -> None:
    """Recordings of calls, sealed on their node and kept by the vault."""
