"""The man page, made from the commands themselves: what `--help` says, in man(7) macros."""

from __future__ import annotations

from collections.abc import Iterator

import click

from controller.cli.main import pbxctl
from controller.version import VERSION

EXIT_CODES = (
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong usage"),
    ("3", "something needed does not answer"),
    ("4", "refused"),
)
FILES = (
    ("./pbxctl.yaml, /etc/pbxctl/pbxctl.yaml", "The config, unless --config or a context says."),
    ("~/.config/pbxctl/contexts.yaml", "The contexts (PBXCTL_CONTEXTS names another file)."),
)


def page() -> str:
    ctx = click.Context(pbxctl, info_name="pbxctl")
    lines = [
        '.\\" Made by `make pages` from the commands; do not edit.',
        f'.TH PBXCTL 1 "" "pbxctl {text(VERSION)}" "pbxctl"',
        ".SH NAME",
        f"pbxctl \\- {text((pbxctl.help or '').rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B pbxctl",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]",
        ".SH DESCRIPTION",
        "pbxctl places each call of a fleet of FreeSWITCH and Asterisk nodes on the best node,",
        "secures, records and explains it. An error is two lines: what happened, what to do next.",
        ".SH OPTIONS",
        "They stand before a command's name or after it; the last one counts.",
        *_options(pbxctl, ctx, set()),
        ".SH COMMANDS",
    ]
    everywhere = {o for p in pbxctl.params for o in p.opts}
    for name, command, inner in _leaves(pbxctl, ctx):
        lines += [".SS " + text(name), *_command(command, inner, everywhere)]
    lines += [".SH EXIT STATUS", *(_term(code, said) for code, said in EXIT_CODES)]
    lines += [".SH FILES", *(_term(path, said) for path, said in FILES)]
    lines += [".SH SEE ALSO", "The pages under docs/, docs/cli.md first."]
    return "\n".join(lines) + "\n"


def _leaves(
    group: click.Group, ctx: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    for word in group.list_commands(ctx):
        if (command := group.get_command(ctx, word)) is None:
            continue
        inner = click.Context(command, info_name=word, parent=ctx)
        if isinstance(command, click.Group):
            yield from _leaves(command, inner)
        else:
            yield inner.command_path, command, inner


def _command(command: click.Command, ctx: click.Context, everywhere: set[str]) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(ctx))
    lines = [f".B {text(ctx.command_path)}", text(usage), ".PP"]
    lines += [text(" ".join((command.help or "").split()))]
    lines += _options(command, ctx, everywhere)
    examples = (command.epilog or "").split("Examples:")[-1].strip("\n").splitlines()
    return [*lines, ".PP", ".EX", *(text(line) for line in examples), ".EE"]


def _options(command: click.Command, ctx: click.Context, but: set[str]) -> list[str]:
    lines = []
    for param in command.params:
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record and not set(param.opts) & but:
            lines.append(_term(*record))
    return lines


def _term(what: str, said: str) -> str:
    return f".TP\n.B {text(what)}\n{text(said)}"


def text(words: str) -> str:
    """Escaped for troff: groff_man(7), "Portability"."""
    escaped = words.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped.replace("~", "\\(ti")
