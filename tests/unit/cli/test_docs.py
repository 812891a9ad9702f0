"""docs/cli.md and the commands are the same: nothing undocumented, nothing invented."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest

from controller.api import recording_shapes, shapes
from controller.api.recording_control import RecordingChange
from controller.cli.main import pbxctl
from controller.fleet.state import Alarm, NodeView
from controller.records import recording_rows
from controller.vault.found import Found
from tests.unit.cli.commands import COMMANDS

TEXT = (Path(__file__).parents[3] / "docs" / "cli.md").read_text("utf-8")
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-[a-z])(?![\w-])")


def options_of(command: click.Command) -> set[str]:
    return {
        name
        for param in command.params
        if isinstance(param, click.Option)
        for name in (*param.opts, *param.secondary_opts)
    }


def section(title: str) -> str:
    match = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", TEXT, re.S | re.M)
    assert match, f"docs/cli.md has no section {title!r}"
    return match[1]


def told_in(text: str) -> set[str]:
    """Options in the first cells of a section's table."""
    cells = re.findall(r"^\| (`-.*?) \|", text, re.M)
    return {option for cell in cells for option in OPTION.findall(cell)}


EVERYWHERE = told_in(section("Everywhere"))


def test_the_group_has_the_options_that_stand_everywhere() -> None:
    assert options_of(pbxctl) | {"-h", "--help"} == EVERYWHERE


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_documented_with_each_option(name: str) -> None:
    own = options_of(COMMANDS[name]) - EVERYWHERE
    assert told_in(section(name)) - EVERYWHERE == own
    assert COMMANDS[name].help, "no help text"
    for param in COMMANDS[name].params:
        if isinstance(param, click.Option):
            assert param.help, f"{param.name} has no help text"


def test_a_command_whose_json_is_documented_prints_it() -> None:
    told = [name for name in COMMANDS if "JSON" in section(name)]
    assert [name for name in told if "--output" not in options_of(COMMANDS[name])] == []


def test_no_command_is_documented_that_does_not_exist() -> None:
    assert set(re.findall(r"^### (pbxctl .*)$", TEXT, re.M)) == set(COMMANDS)


def test_no_option_is_named_anywhere_that_does_not_exist() -> None:
    exist = EVERYWHERE.union(*map(options_of, COMMANDS.values()))
    named = {o for code in re.findall(r"`([^`\n]+)`", TEXT) for o in OPTION.findall(code)}
    assert named <= exist


@pytest.mark.parametrize(
    ("title", "shape"),
    [
        ("Nodes", NodeView),
        ("Calls", shapes.CallView),
        ("Calls", shapes.Attested),
        ("Calls", shapes.AttestedLeg),
        ("pbxctl alarms", Alarm),
        ("pbxctl nodes drain", shapes.NodeAction),
        ("pbxctl calls list", shapes.Calls),
        ("pbxctl calls why", shapes.Why),
        ("pbxctl calls hangup", shapes.CallAction),
        ("Recordings of a call that is on", RecordingChange),
        ("pbxctl route", shapes.RouteAnswer),
        ("Phones", shapes.PhoneView),
        ("Phones", shapes.PhonePlace),
        ("pbxctl phones list", shapes.Phones),
        ("pbxctl phones add", shapes.PhoneCredentials),
        ("Recordings", recording_shapes.RecordingView),
        ("pbxctl recordings list", recording_shapes.Recordings),
        ("pbxctl recordings show", recording_shapes.RecordingDetail),
        ("pbxctl recordings show", recording_shapes.ErasureView),
        ("pbxctl recordings show", recording_rows.Hold),
        ("pbxctl recordings verify", recording_shapes.Verified),
        ("pbxctl recordings hold", recording_shapes.RecordingAction),
        ("pbxctl recordings kept", recording_shapes.KeptReport),
        ("pbxctl recordings kept", recording_rows.Kept),
        ("pbxctl recordings reads", recording_rows.Read),
        ("pbxctl vault status", recording_shapes.VaultStatus),
        ("pbxctl vault status", recording_shapes.PeriodKeys),
        ("pbxctl vault rotate", recording_shapes.Rotated),
        ("pbxctl vault check", Found),
    ],
)
def test_each_json_key_is_documented(title: str, shape: type[msgspec.Struct]) -> None:
    keys = {field.encode_name for field in msgspec.structs.fields(shape)}
    assert keys <= set(re.findall(r"`([a-z_]+)`", section(title)))
