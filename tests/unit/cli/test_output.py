from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cli import output
from controller.cli.output import Column, fitting
from controller.cli.session import Session
from controller.cli.text import plain


@given(st.text())
def test_nothing_that_moves_a_terminal_is_left(text: str) -> None:
    shown = plain(text)
    assert all(c.isprintable() for c in shown)
    assert "\n" not in shown


def test_plain_text_stays_as_it_is() -> None:
    for text in ("Jürgen Müller", "дом", "[bold]x[/]", "a b", "東京", "%0A"):
        assert plain(text) == text
    assert plain("a\x00\x85\u2028\u200b\ud800") == r"a\x00\x85\u2028\u200b\ud800"


COLUMNS = (
    Column[str]("A", lambda r: r),
    Column[str]("BB", lambda r: r, rank=1),
    Column[str]("CC", lambda r: r, rank=2),
    Column[str]("DD", lambda r: r, rank=2),
)


def test_columns_leave_by_rank_and_from_the_right() -> None:
    cells = {c.title: ["xxxx"] for c in COLUMNS}
    titles = [[c.title for c in fitting(COLUMNS, cells, width)] for width in (22, 21, 15, 9, 1)]
    assert titles == [["A", "BB", "CC", "DD"], ["A", "BB", "CC"], ["A", "BB"], ["A"], ["A"]]


def test_a_last_column_that_may_fold_keeps_its_place() -> None:
    columns = (*COLUMNS[:3], Column[str]("WHY", lambda r: r, rank=1, fold_to=6))
    cells = {c.title: ["xxxx"] for c in COLUMNS[:3]} | {"WHY": ["y" * 90]}
    titles = [[c.title for c in fitting(columns, cells, width)] for width in (24, 23, 17)]
    assert titles == [["A", "BB", "CC", "WHY"], ["A", "BB", "WHY"], ["A", "BB"]]


def test_a_table_is_never_wider_than_its_terminal() -> None:
    rows = ["node-with-a-long-name", "n"]
    for width in (20, 30, 40, 80):
        from rich.console import Console

        stream = io.StringIO()
        console = Console(file=stream, width=width)
        console.print(output.table(rows, COLUMNS, False, width))
        assert max(len(line) for line in stream.getvalue().splitlines()) <= width


def test_wide_cuts_nothing_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", "20")
    name = "node-with-a-long-name"
    output.show(Session(output="wide"), None, [name], COLUMNS, str)
    assert re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).split() == [
        "A",
        "BB",
        "CC",
        "DD",
        *[name] * 4,
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_ends_in_blanks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    output.show(Session(output="wide"), None, ["x", "y" * 300], COLUMNS, str)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert len(lines) == 3


def test_markup_is_not_read() -> None:
    stream = io.StringIO()
    console = output.console(Session(), stream)
    console.print(output.table(["[red]x[/red] :smile:"], COLUMNS[:1], False, 80))
    assert "[red]x[/red] :smile:" in stream.getvalue()
