"""Options that stand everywhere, each declared once, and the classes of our commands.

The group takes them before the command's name, a command after it; the last word counts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from controller.cli.session import FORMATS, Session
from controller.cli.suggest import nearest

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=click.Command)


def _kept(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value is not None and value is not False:
        setattr(ctx.ensure_object(Session), str(param.name), value)


def _option(*names: str, env: str = "", **settings: Any) -> Callable[[bool], Callable[[F], F]]:
    """A declaration for the group (True) or a command (False).

    Variables are read by the group alone: read again at the command they would win over an option
    that stands before its name.
    """

    def declare(of_group: bool) -> Callable[[F], F]:
        variable: dict[str, Any] = {"envvar": env, "show_envvar": True} if of_group and env else {}
        return click.option(*names, expose_value=False, callback=_kept, **(settings | variable))

    return declare


_config = _option(
    "--config", "config_file", metavar="FILE", env="PBXCTL_CONFIG", help="The config file."
)
_context = _option(
    "--context", metavar="NAME", env="PBXCTL_CONTEXT", help="A context instead of the one in use."
)
_no_color = _option("--no-color", is_flag=True, help="No colours (also NO_COLOR).")
_verbose = _option("-v", "--verbose", is_flag=True, help="Say more, with a traceback on defects.")
_output = _option(
    "-o",
    "--output",
    type=click.Choice(FORMATS),
    env="PBXCTL_OUTPUT",
    help="How to print the answer (default: table).",
)
_watch = _option(
    "-w",
    "--watch",
    "watch_s",
    type=click.FloatRange(0.2, 3600),
    metavar="SECONDS",
    help="Print again every so many seconds, until Ctrl-C.",
)
_yes = _option("--yes", is_flag=True, help="Do not ask before a change.")
_dry_run = _option("--dry-run", is_flag=True, help="Say what would happen, change nothing.")
_as = _option(
    "--as",
    "person",
    metavar="NAME",
    help="Whose certificate of pki.folder to show the vault (also PBXCTL_AS).",
)


def _all(*options: Callable[[bool], Callable[[F], F]], of_group: bool = False) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for option in reversed(options):
            function = option(of_group)(function)
        return function

    return apply


_base = (_config, _context, _no_color, _verbose)
everywhere = _all(
    _config, _context, _output, _watch, _yes, _dry_run, _no_color, _verbose, of_group=True
)
plain = _all(*_base)
printing = _all(_output, *_base)
reading = _all(_output, _watch, *_base)
changing = _all(_output, _yes, _dry_run, *_base)


#: the same for what the vault is asked
vault_reading = _all(_output, _watch, _as, *_base)
vault_changing = _all(_output, _yes, _dry_run, _as, *_base)


def examples(*lines: str) -> Callable[[C], C]:
    """Command lines that stand at the end of a command's help and in the man page."""

    def under(command: C) -> C:
        # \b keeps click from joining the lines into a paragraph.
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
        return command

    return under


class Nouns(click.Group):
    """A group whose commands are imported when used: `pbxctl nodes` never loads the rest."""

    def __init__(self, *args: Any, places: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = places or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        # The first group has the order of a fleet's life; a noun's verbs are looked up.
        return list(self._places) if not self.commands else sorted([*self._places, *self.commands])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if place := self._places.get(cmd_name):
            module, _, attribute = place.partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            near = nearest(name, self.list_commands(ctx))
            hint = f" Did you mean {near}?" if near else ""
            ctx.fail(f"There is no command {name!r}.{hint}")
        return super().resolve_command(ctx, args)
