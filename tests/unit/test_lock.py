"""requirements.lock is what a fresh machine installs: it must say what pyproject.toml says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
LOCK = (HERE / "requirements.lock").read_text()
PINS = dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", LOCK, re.MULTILINE))
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
WANTED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


@pytest.mark.parametrize("wanted", WANTED)
def test_the_lock_has_what_the_project_wants(wanted: str) -> None:
    name, _, version = wanted.partition("==")
    name = name.partition("[")[0]  # moto[server]: the lock has what the extra brings
    assert name in PINS, "run make lock"
    assert version in ("", PINS[name]), "run make lock"


def test_every_package_is_hashed_and_no_index_is_named() -> None:
    blocks = re.split(r"\n(?=[a-z0-9])", LOCK)[1:]
    assert len(blocks) == len(PINS)
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in LOCK
    assert "--index" not in LOCK
