"""One gate on one redis-server for the commands' tests, and a way to run a command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller.cli.main import run
from tests.gate_server import Stand


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)["error"]


Pbxctl = Callable[..., Ran]


@pytest.fixture(scope="session")
def shared_stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("g")) as stand:
        yield stand


@pytest.fixture
def stand(shared_stand: Stand) -> Stand:
    """A fleet of three idle, active nodes."""
    shared_stand.reset()
    return shared_stand


@pytest.fixture
def bare(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Pbxctl:
    """Runs a command line with no config, no contexts and no terminal."""
    for name in ("PBXCTL_CONFIG", "PBXCTL_CONTEXT", "PBXCTL_OUTPUT", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PBXCTL_CONTEXTS", str(tmp_path / "contexts.yaml"))
    monkeypatch.chdir(tmp_path)

    def pbxctl(*argv: str) -> Ran:
        capsys.readouterr()
        code = run(list(argv))
        caught = capsys.readouterr()
        return Ran(code, caught.out, caught.err)

    return pbxctl


@pytest.fixture
def pbxctl(bare: Pbxctl, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Pbxctl:
    """Runs a command line against the stand's gate."""
    monkeypatch.setenv("PBXCTL_CONFIG", str(stand.file))
    return bare
