"""Exit codes, errors, options that stand everywhere, contexts and completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from controller.errors import (
    ConfigError,
    FleetUnreachable,
    NotFound,
    PbxctlError,
    Refused,
    UsageError,
)
from tests.gate_server import Stand
from tests.unit.cli.conftest import Pbxctl

ROOT = Path(__file__).parents[3]


def process(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller.cli", *argv],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_help_names_every_command(bare: Pbxctl) -> None:
    ran = bare("--help")
    assert ran.code == 0
    for name in ("up", "run", "init", "render", "doctor", "nodes", "top", "calls", "route"):
        assert f"\n  {name} " in ran.out


def test_exit_codes_stand_on_the_errors() -> None:
    codes = {kind: kind.exit_code for kind in (PbxctlError, UsageError, FleetUnreachable, Refused)}
    assert list(codes.values()) == [1, 2, 3, 4]
    assert (ConfigError.exit_code, NotFound.exit_code) == (2, 2)


@pytest.mark.parametrize(
    "argv",
    [
        ("nods",),
        ("nodes", "lst"),
        ("nodes", "list", "--regoin", "x"),
        ("nodes", "list", "-o", "xml"),
        ("nodes", "show"),
        ("nodes", "list", "-w", "0"),
        ("--config", "/nonexistent.yaml", "nodes", "list"),
        ("--context", "none", "nodes", "list"),
        ("calls", "hangup", "x", "--cause", "900", "--yes"),
        ("run", "driver", "--node", "x"),
    ],
)
def test_wrong_usage_is_2_and_says_what_next(bare: Pbxctl, argv: tuple[str, ...]) -> None:
    ran = bare(*argv)
    assert (ran.code, ran.out) == (2, "")
    first, second = ran.err.splitlines()
    assert first.startswith("Error: ")
    assert second.startswith("Next: ")
    ran = bare(*argv, "-o", "json") if "-o" not in argv else bare("-o", "json", *argv)
    assert ran.error["exit_code"] == 2
    assert ran.error["hint"]


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (("nodes", "list", "-w"), "pbxctl nodes list --help"),
        (("-o", "json", "calls", "why"), "pbxctl calls why --help"),
        (("nodes", "lst"), "pbxctl nodes --help"),
        (("--config", "/", "nodes", "list"), "mend the file; `pbxctl init --demo"),
    ],
)
def test_errors_without_words_of_their_own_say_what_next(
    bare: Pbxctl, argv: tuple[str, ...], hint: str
) -> None:
    said = bare(*argv).err
    assert hint in said


def test_errors_cannot_play_with_the_terminal(bare: Pbxctl) -> None:
    ran = bare("nodes", "show", "--config", "/nowhere/\x1b[2J\u202e", "x")
    assert "\x1b" not in ran.err
    assert r"\x1b[2J\u202e" in ran.err


def test_options_stand_before_or_after_and_the_last_counts(
    pbxctl: Pbxctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "e1\ne2\nw1\n"
    assert pbxctl("-o", "name", "nodes", "list").out == names
    assert pbxctl("-o", "json", "nodes", "list", "-o", "name").out == names
    monkeypatch.setenv("PBXCTL_OUTPUT", "name")
    assert pbxctl("nodes", "list").out == names
    assert pbxctl("-o", "json", "nodes", "list").out.startswith("{")


def test_letters_that_a_terminal_does_not_have_are_escaped(tmp_path: Path) -> None:
    contexts = tmp_path / "contexts.yaml"
    contexts.write_text("contexts: [{name: дом, config: /x}]", "utf-8")
    ran = process("context", "list", "-o", "name",
                  PBXCTL_CONTEXTS=str(contexts), PYTHONIOENCODING="latin-1")  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, r"\u0434\u043e\u043c" + "\n"), ran.stderr


def test_a_full_disk_is_no_defect_of_ours() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "controller.cli", "completion", "bash"],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=20,
        )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith("Error: what was asked for cannot be written: No space left")


def test_a_pipe_gets_no_colours_and_whole_lines(stand: Stand, pbxctl: Pbxctl) -> None:
    ran = process("nodes", "list", "-o", "wide", PBXCTL_CONFIG=str(stand.file), COLUMNS="20")
    assert ran.returncode == 0
    assert "\x1b" not in ran.stdout
    assert "127.0.15.1:5060" in ran.stdout


def test_watch_in_json_is_a_document_a_line(stand: Stand, pbxctl: Pbxctl) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "controller.cli", "nodes", "list", "-o", "json", "-w", "0.2"],
        cwd=ROOT,
        env={**os.environ, "PBXCTL_CONFIG": str(stand.file)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout
    try:
        lines = [watching.stdout.readline() for _ in range(2)]
    finally:
        watching.kill()
        watching.wait()
        watching.stdout.close()
    assert all(line.startswith('{"nodes": [') and line.endswith("}\n") for line in lines)


def test_contexts(bare: Pbxctl, stand: Stand) -> None:
    assert bare("context", "add", "lab", "--file", str(stand.file)).code == 0
    assert bare("context", "add", "far", "--gate", "https://x:1", "--cert", "c").code == 2
    far = ("--gate", "https://127.0.15.8:1", "--cert", "c", "--key", "k", "--ca", "a")
    assert bare("context", "add", "far", *far).code == 0
    assert bare("context", "list", "-o", "name").out == "lab\nfar\n"
    assert bare("nodes", "list", "-o", "name").out == "e1\ne2\nw1\n"
    ran = bare("--context", "far", "nodes", "list")
    assert ran.code == 2
    assert "certificate files" in ran.err
    assert bare("context", "use", "far").code == 0
    assert bare("context", "list", "-o", "json").json["current"] == "far"
    assert bare("doctor").code == 2
    assert bare("context", "remove", "far").code == 0
    assert bare("context", "use", "far").code == 2
    assert bare("context", "list", "-o", "name").out == "lab\n"


def test_a_broken_context_file_is_told_with_its_name(bare: Pbxctl, tmp_path: Path) -> None:
    (tmp_path / "contexts.yaml").write_text("contexts: [{name: 1}]")
    ran = bare("nodes", "list")
    assert ran.code == 2
    assert "contexts.yaml" in ran.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(bare: Pbxctl, shell: str) -> None:
    ran = bare("completion", shell)
    assert ran.code == 0
    assert "_PBXCTL_COMPLETE" in ran.out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("pbxctl no", {"nodes"}),
        ("pbxctl nodes show e", {"e1", "e2"}),
        ("pbxctl nodes list --state dr", {"draining"}),
        ("pbxctl -o name nodes drain w", {"w1"}),
    ],
)
def test_completion_of_names(stand: Stand, pbxctl: Pbxctl, words: str, found: set[str]) -> None:
    ran = process(
        _PBXCTL_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
        PBXCTL_CONFIG=str(stand.file),
    )
    assert {line.split(",")[1] for line in ran.stdout.splitlines()} == found


def test_completion_is_silent_when_nothing_answers(bare: Pbxctl) -> None:
    ran = process(
        _PBXCTL_COMPLETE="bash_complete",
        COMP_WORDS="pbxctl nodes show e",
        COMP_CWORD="3",
        PBXCTL_CONFIG="/nonexistent",
    )
    assert (ran.stdout.strip(), ran.stderr) == ("", "")
