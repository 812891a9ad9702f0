"""What the documents point at is there: files, headings, tests, commands, metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.unit.cli.commands import ALL

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
TEXTS = {page: page.read_text("utf-8") for page in PAGES}
METRICS = TEXTS[REPOSITORY / "docs" / "metrics.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(text: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M
    ):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(TEXTS[page]):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text("utf-8")), target


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    named = set(
        re.findall(
            r"(?<![\w/.-])(?:controller|tests|deploy|bench|docs|lua|dialplans)/[\w./-]*\w",
            TEXTS[page],
        )
    )
    missing = {name for name in named if not list(REPOSITORY.glob(name.rstrip("/")))}
    assert not missing
    for name in set(re.findall(r"\btest_\w+\.py\b", TEXTS[page])):
        assert list((REPOSITORY / "tests").rglob(name)), name


def lines(text: str) -> Iterator[str]:
    """Command lines of pbxctl: in code blocks, and inline."""
    for block in re.findall(r"^```.*?\n(.*?)^```", text, re.S | re.M):
        yield from re.findall(r"^(?:\w+\$ |\$ |# )?(pbxctl .*?)(?:  +#.*)?$", block, re.M)
    yield from re.findall(r"`(pbxctl [^`\n]+)`", text)


def command_of(line: str) -> tuple[str, click.Command]:
    words = [word for word in line.split()[1:] if not word.startswith("-")]
    name = "pbxctl"
    for word in words:
        if f"{name} {word}" not in ALL:
            break
        name = f"{name} {word}"
    return name, ALL[name]


@each_page
def test_command_lines_are_those_of_pbxctl(page: Path) -> None:
    if page.parent.name == "screens":
        pytest.skip("what a terminal showed, wrong commands too")
    everywhere = {o for p in ALL["pbxctl"].params for o in p.opts} | {"-h", "--help"}
    for line in lines(TEXTS[page]):
        if "$" in line or line.startswith("pbxctl VERB"):
            continue
        name, command = command_of(re.split(r"[|>;&]", line)[0])
        if re.search(r"--(config|context) ", line):
            continue  # a word before the verb
        assert name != "pbxctl" or re.match(r"pbxctl (-|[A-Z[])", line), line
        own = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        if isinstance(command, click.Group):
            after = line.removeprefix(name).split()
            assert not after or not re.match(r"[a-z]", after[0]), line
            continue
        named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"'[^']*'", "", line)))
        assert named <= own | everywhere, line


def declared() -> set[str]:
    """Metric names as they stand in the code, with the suffix that Prometheus adds."""
    found = set()
    kinds = r"(Counter|Gauge|Histogram|\w*MetricFamily)\(\s*\"(pbxctl_\w+|\w+)\""
    for path in (REPOSITORY / "controller").rglob("*.py"):
        for kind, name in re.findall(kinds, path.read_text("utf-8")):
            total = kind.startswith("Counter") and not name.endswith("_total")
            found.add(name + ("_total" if total else ""))
    return found


def test_every_metric_of_the_code_is_documented() -> None:
    documented = set(re.findall(r"^\| `(pbxctl_[a-z_]+)`", METRICS, re.M))
    assert len(declared()) > 40
    assert declared() <= documented


@each_page
def test_no_page_names_a_metric_that_is_not_there(page: Path) -> None:
    known = set(re.findall(r"`(pbxctl_[a-z_]+)`", METRICS))
    for name in re.findall(r"\bpbxctl_[a-z_]+", TEXTS[page]):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in known or base in known or name.endswith("_"), name
