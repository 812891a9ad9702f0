"""The house stands as docs/architecture.md draws it: imports run downward, files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "controller"
LINES_MAX = 400

#: a room may import from its own floor and those below
FLOORS = (
    {"cli", "keeper", "supervisor"},
    {"roles"},
    {"api", "agent", "render", "doctor"},
    {"routing", "capacity", "fraud", "media", "vault", "access"},
    {"records", "evidence", "fleet", "pbx", "pki"},
    {
        *("model", "config", "config_file", "config_hints", "config_shapes", "config_urls"),
        *("config_vault", "config_recordings"),
        *("durable", "errors", "metrics", "log", "notify", "resources", "tasks", "version"),
    },
)


def floor(room: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    raise AssertionError(f"controller/{room} has no floor: name it in FLOORS")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "controller":
                names |= {f"controller.{alias.name}" for alias in node.names}
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("controller.")}


def test_imports_run_downward() -> None:
    wrong = []
    for path in modules():
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        wrong += [
            f"{path.relative_to(REPOSITORY)} imports controller.{other}"
            for other in imported(path)
            if floor(other) < floor(room)
        ]
    assert not wrong, wrong


def test_no_file_has_outgrown_its_subject() -> None:
    long = {
        str(path.relative_to(REPOSITORY)): lines
        for path in [*modules(), *(REPOSITORY / "lua").rglob("*.lua")]
        if (lines := len(path.read_text("utf-8").splitlines())) > LINES_MAX
    }
    assert not long, long
