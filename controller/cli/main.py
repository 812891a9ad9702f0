"""The command line: the group, and the one place where errors become words and exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 unreachable, 4 refused (errors.py).
"""

from __future__ import annotations

import errno
import io
import itertools
import logging
import sys
import traceback
from collections.abc import Sequence

import click

from controller.cli import options
from controller.cli.session import Session
from controller.cli.text import error_json, plain
from controller.errors import ConfigError, PbxctlError, UsageError
from controller.version import VERSION

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
PLACES = {
    "up": "controller.cli.up:up",
    "run": "controller.cli.up:run",
    "init": "controller.cli.init:init",
    "render": "controller.cli.render:render",
    "pki": "controller.cli.pki:pki",
    "doctor": "controller.cli.doctor:doctor",
    "nodes": "controller.cli.nodes:nodes",
    "top": "controller.cli.top:top",
    "calls": "controller.cli.calls:calls",
    "alarms": "controller.cli.alarms:alarms",
    "phones": "controller.cli.phones:phones",
    "recordings": "controller.cli.recordings:recordings",
    "vault": "controller.cli.vault:vault",
    "backup": "controller.cli.backup:backup",
    "restore": "controller.cli.backup:restore",
    "route": "controller.cli.route:route",
    "context": "controller.cli.context:context",
    "completion": "controller.cli.completion:completion",
}


@options.examples(
    "pbxctl init --fleet office --node pbx1=asterisk:192.0.2.10@east",
    "pbxctl doctor --problems",
    "pbxctl top",
    "pbxctl calls why 5a0ad9c1@198.51.100.7",
)
@click.group(
    cls=options.Nouns,
    places=PLACES,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@options.everywhere
@click.version_option(VERSION, prog_name="pbxctl")
def pbxctl() -> None:
    """One control plane for fleets of FreeSWITCH and Asterisk."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `pbxctl` command; ends the process with the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that a terminal's letters have not
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Runs one command line and answers its exit code; writes to stdout and stderr."""
    session = Session()
    try:
        answer = pbxctl.main(argv, prog_name="pbxctl", standalone_mode=False, obj=session)
        return answer if isinstance(answer, int) else 0
    except PbxctlError as error:
        hint = error.hint or _next(error, argv)
        return _tell(session, argv, type(error).__name__, error.message, hint, error.exit_code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return _tell(session, argv, "Abort", "stopped: nothing was changed", "", 1)
    except click.exceptions.NoArgsIsHelpError as error:  # `pbxctl nodes`, and no verb
        if session.output != "json" and not _asks_json(argv):
            sys.stderr.write(error.format_message() + "\n")
            return 2
        return _tell(session, argv, "UsageError", "a command is missing", _help(argv), 2)
    except click.UsageError as error:
        message = " ".join(error.format_message().split())
        return _tell(session, argv, "UsageError", message, _help(argv), 2)
    except click.ClickException as error:
        return _tell(session, argv, type(error).__name__, error.format_message(), "", 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away, as `head` does: no message about it
        return 0
    except Exception as error:  # the last border
        return _tell_other(session, argv, error)


def _tell_other(session: Session, argv: list[str], error: Exception) -> int:
    """A full disk, or a defect of ours, told as one."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        what = f"what was asked for cannot be written: {error.strerror}"
        return _tell(session, argv, "PbxctlError", what, "make room where it goes", 1)
    if session.verbose:
        traceback.print_exception(error)
    logging.getLogger(__name__).debug("defect", exc_info=error)
    hint = "run it again with -v and report what it prints"
    return _tell(session, argv, "Defect", f"{type(error).__name__}: {error}", hint, 1)


def _next(error: PbxctlError, argv: list[str]) -> str:
    """What to do about an error that does not say it itself."""
    if isinstance(error, ConfigError):
        return "mend the file; `pbxctl init --demo --into FOLDER` writes one to compare it with"
    if isinstance(error, UsageError):
        return _help(argv)
    return "pbxctl doctor --problems"


def _help(argv: list[str]) -> str:
    """The help of the command that the line names, as far as it could be understood."""
    command: click.Command = pbxctl
    ctx = click.Context(pbxctl, info_name="pbxctl")
    for word in argv:
        inner = command.get_command(ctx, word) if isinstance(command, click.Group) else None
        if inner is not None:
            command, ctx = inner, click.Context(inner, info_name=word, parent=ctx)
    return f"{ctx.command_path} --help"


def _tell(
    session: Session, argv: list[str], kind: str, message: str, hint: str, exit_code: int
) -> int:
    if session.output == "json" or _asks_json(argv):
        sys.stderr.write(error_json(kind, message, hint, exit_code))
    else:
        sys.stderr.write(f"Error: {plain(message)}\n")
        if hint:
            sys.stderr.write(f"Next: {plain(hint)}\n")
    return exit_code


def _asks_json(argv: list[str]) -> bool:
    """Whether JSON was asked for, of a command line that could not be parsed."""
    pairs = itertools.pairwise(argv)
    return (
        any(flag in ("-o", "--output") and value == "json" for flag, value in pairs)
        or "-ojson" in argv
        or "--output=json" in argv
    )


if __name__ == "__main__":
    main()
