"""Help: each command has examples, and each example is a command line that pbxctl takes."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from controller.cli.main import pbxctl
from tests.unit.cli.commands import ALL
from tests.unit.cli.conftest import Pbxctl

WIDTH_MAX = 95


def examples(command: click.Command) -> list[str]:
    epilog = command.epilog or ""
    assert "Examples:" in epilog
    return [line.strip() for line in epilog.splitlines() if "pbxctl " in line]


def parsed(line: str) -> str:
    """The command that the line names; raises as click does when it would not take it."""
    words = shlex.split(re.split(r"[>|]", line[line.rindex("pbxctl ") :])[0])
    if "xargs" in line:
        words.append("NAME")
    ctx = pbxctl.make_context("pbxctl", words[1:])
    command: click.Command = pbxctl
    while isinstance(command, click.Group):
        name, inner, rest = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
        assert name and inner
        ctx, command = inner.make_context(name, rest, parent=ctx), inner
    return ctx.command_path


@pytest.mark.parametrize("name", ALL)
def test_examples_are_command_lines_that_it_takes(name: str) -> None:
    for line in examples(ALL[name]):
        assert len(line) <= WIDTH_MAX, line
        assert parsed(line).startswith(name)


def test_an_example_with_a_wrong_option_would_be_found() -> None:
    with pytest.raises(click.UsageError):
        parsed("pbxctl nodes list --regoin east")


@pytest.mark.parametrize("name", ALL)
def test_the_list_of_commands_shows_whole_sentences(name: str) -> None:
    """At 100 columns; click cuts what is longer with three dots."""
    command = ALL[name]
    if isinstance(command, click.Group):
        ctx = click.Context(command, info_name=name, terminal_width=100)
        assert "..." not in command.get_help(ctx).split("Commands:")[1]


@pytest.mark.parametrize("argv", [(), ("nodes",), ("recordings",)])
def test_no_command_is_help_and_wrong_usage(bare: Pbxctl, argv: tuple[str, ...]) -> None:
    ran = bare(*argv)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: pbxctl")
    assert "\nCommands:\n" in ran.err
    assert "missing" in bare("-o", "json", *argv).error["message"].lower()


def test_a_message_of_many_lines_is_one(bare: Pbxctl) -> None:
    ran = bare("completion")
    assert ran.err.splitlines()[0].endswith("Choose from: bash, zsh, fish")
