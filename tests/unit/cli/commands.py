"""Every command of pbxctl, as the group itself lists them."""

from __future__ import annotations

from collections.abc import Iterator

import click

from controller.cli.main import pbxctl


def walk(
    command: click.Command = pbxctl, name: str = "pbxctl"
) -> Iterator[tuple[str, click.Command]]:
    """Groups too, each before what is in it."""
    yield name, command
    if isinstance(command, click.Group):
        ctx = click.Context(command, info_name=name)
        for word in command.list_commands(ctx):
            inner = command.get_command(ctx, word)
            assert inner is not None
            yield from walk(inner, f"{name} {word}")


ALL = dict(walk())
COMMANDS = {n: c for n, c in ALL.items() if not isinstance(c, click.Group)}
