"""Printing answers: as a table that fits the terminal, or as JSON, YAML or names for scripts.

Tables carry hostile text, so every cell goes through text.plain and into a Text, never markup.
JSON and YAML keep values as they are, escaped to ASCII.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Generic, TypeVar

import msgspec

from controller.cli.session import Session
from controller.cli.text import error_json, plain
from controller.errors import Unreachable

T = TypeVar("T")
UNBOUNDED = 100_000  # columns of a pipe: nothing is cut there
_BLANKS = re.compile(r" +((?:\x1b\[0m)?)$", re.M)
LINES = 25  # of what has no height; rich goes by a width only beside one


@dataclass(frozen=True)
class Column(Generic[T]):
    """rank: columns of the highest rank leave first when the terminal is narrow; 0 never leaves.

    wide: only under -o wide. style: a rich style, or a function of the row that gives one.
    fold_to: of the last column: the width that it is content with, over several lines.
    """

    title: str
    cell: Callable[[T], object]
    rank: int = 0
    wide: bool = False
    right: bool = False
    style: Callable[[T], str] | str = ""
    fold_to: int = 0


def as_data(value: object) -> Any:
    return msgspec.to_builtins(value)


def dump(session: Session, value: object, stream: IO[str] | None = None) -> None:
    """Prints as JSON or YAML; under a watch one JSON document a line."""
    out = stream or sys.stdout
    data = as_data(value)
    if session.output == "yaml":
        import yaml

        text = yaml.safe_dump(data, sort_keys=False, explicit_start=session.watch_s is not None)
        out.write(text)
    else:
        out.write(json.dumps(data, indent=None if session.watch_s else 2) + "\n")
    out.flush()


def show(
    session: Session,
    value: object,
    rows: Sequence[T],
    columns: Sequence[Column[T]],
    name: Callable[[T], str],
    *,
    empty: str = "nothing to show",
) -> None:
    """Prints rows in the session's format; `value` is what JSON and YAML show of them."""
    if session.output in ("json", "yaml"):
        dump(session, value)
    elif session.output == "name":
        sys.stdout.writelines(plain(name(row)) + "\n" for row in rows)
        sys.stdout.flush()
    elif not rows:
        note(session, empty)
    else:
        wide = session.output == "wide"
        terminal = console(session, unbounded=wide)
        with terminal.capture() as made:
            terminal.print(table(rows, columns, wide, terminal.width))
        # Blanks to the width of the longest cell would be empty lines in a narrow window.
        sys.stdout.write(_BLANKS.sub(r"\1", made.get()))
        sys.stdout.flush()


def is_dumb(out: IO[str]) -> bool:
    """Whether it is a terminal that has no cursor to move, as an editor's shell."""
    return out.isatty() and os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def console(session: Session, stream: IO[str] | None = None, *, unbounded: bool = False) -> Any:
    """A rich console: coloured only on a terminal that wants it, as wide as the pipe needs.

    unbounded: on a terminal too, which wraps what is wider.
    """
    from rich.console import Console

    out = stream or sys.stdout
    width = height = None
    if unbounded or not out.isatty():
        width, height = UNBOUNDED, LINES
    elif is_dumb(out):  # of which rich knows no size
        width, height = shutil.get_terminal_size()
    return Console(
        file=out,
        no_color=session.no_color,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
        width=width,
        height=height,
        force_terminal=None if out.isatty() else False,
    )


def table(rows: Sequence[T], columns: Sequence[Column[T]], wide: bool, width: int) -> Any:
    """A rich table of the columns that fit into `width`; with `wide` of all."""
    from rich.table import Table
    from rich.text import Text

    chosen = [c for c in columns if wide or not c.wide]
    cells = {c.title: [plain(c.cell(row)) for row in rows] for c in chosen}
    if not wide:
        chosen = fitting(chosen, cells, width)
    made = Table(
        box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0)
    )
    for column in chosen:
        last = column is chosen[-1]
        made.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not last,
            overflow="fold" if last or wide else "ellipsis",
        )
    for i, row in enumerate(rows):
        line = []
        for column in chosen:
            style = column.style(row) if callable(column.style) else column.style
            line.append(Text(cells[column.title][i], style=style))
        made.add_row(*line)
    return made


def fitting(
    columns: Sequence[Column[T]], cells: dict[str, list[str]], width: int
) -> list[Column[T]]:
    """Those columns that fit, the ones of highest rank left out first, the later first."""
    kept = list(columns)

    def size(column: Column[T]) -> int:
        longest = max(map(len, [column.title, *cells[column.title]]))
        return min(longest, column.fold_to) if column.fold_to else longest

    def needed() -> int:
        return sum(size(c) + 2 for c in kept) - 2

    while needed() > width and any(c.rank for c in kept):
        worst = max(range(len(kept)), key=lambda i: (kept[i].rank, i))
        del kept[worst]
    return kept


@contextmanager
def several(session: Session, done: Sequence[T], name: Callable[[T], str]) -> Iterator[None]:
    """Prints for scripts what the body has put into `done`, also when it ends by an error."""
    try:
        yield
    finally:
        if session.output in ("json", "yaml") and done:
            dump(session, done)
        elif session.output == "name":
            sys.stdout.writelines(plain(name(one)) + "\n" for one in done)
            sys.stdout.flush()


def say(session: Session, sentences: Sequence[str]) -> None:
    """Prints sentences, one a line, folded to the terminal."""
    from rich.text import Text

    terminal = console(session)
    for sentence in sentences:
        terminal.print(Text(plain(sentence)))


def note(session: Session, text: str) -> None:
    """A remark for people, on stderr; scripts do not get it."""
    if session.output in ("table", "wide"):
        sys.stderr.write(plain(text) + "\n")


def repeat(session: Session, once: Callable[[], None]) -> None:
    """Runs `once`, under a watch again and again until Ctrl-C.

    A watch outlives a gate or a Redis that is away for a while: it says so and goes on.
    """
    if session.watch_s is None:
        once()
        return
    screen = sys.stdout.isatty() and not is_dumb(sys.stdout) and session.output in ("table", "wide")
    try:
        while True:
            if screen:
                sys.stdout.write("\x1b[H\x1b[J")
                sys.stdout.write(f"every {session.watch_s:g} s, {time.strftime('%H:%M:%S')}\n")
            try:
                once()
            except Unreachable as error:
                kind = type(error).__name__
                told = (
                    error_json(kind, error.message, error.hint, error.exit_code)
                    if session.output == "json"
                    else f"Error: {plain(error.message)}\n"
                )
                sys.stderr.write(told)
            time.sleep(session.watch_s)
    except KeyboardInterrupt:
        sys.stderr.write("\n")


def facts(session: Session, value: object, name: str) -> None:
    """Prints one thing, a line a field."""
    if session.output in ("json", "yaml"):
        dump(session, value)
    elif session.output == "name":
        sys.stdout.write(plain(name) + "\n")
    else:
        data = as_data(value)
        width = max(map(len, data))
        for key, field in data.items():
            shown = ", ".join(map(str, field)) if isinstance(field, list) else field
            if isinstance(shown, float) and shown != -1:
                shown = f"{shown:.2f}".rstrip("0").rstrip(".")
            sys.stdout.write(f"{key:<{width}}  {plain('-' if shown in ('', -1) else shown)}\n")
        sys.stdout.flush()
