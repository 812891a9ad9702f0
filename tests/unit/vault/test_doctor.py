"""What the doctor says of a vault: each finding that is not well names its fix."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from controller.config_vault import VaultConfig
from controller.doctor.finding import Level
from controller.doctor.vault import check_vault, judge_folder, judge_keys, judge_room
from controller.vault.intake import open_intake
from controller.vault.store import open_store
from tests.unit.vault.test_life_cycle import config_in
from tests.vault_server import VaultServer


def test_a_vault_that_runs_is_well(tmp_path: Path) -> None:
    with VaultServer(tmp_path) as vault:
        found = {f.check: f for f in check_vault(vault.config)}
        assert {name: f.level for name, f in found.items() if name != "room"} == dict.fromkeys(
            ("keys", "secret", "folder", "ingest", "listen"), Level.OK
        )


def test_the_folders_that_a_vault_makes_are_its_own(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    shutil.rmtree(config.state_path)
    before = os.umask(0o022)
    try:
        open_store(config)
        open_intake(config)
    finally:
        os.umask(before)
    found = {f.check: f.level for f in check_vault(config)}
    assert found["folder"] is Level.OK
    for folder in (config.state_path, config.vault_path):
        assert folder.stat().st_mode & 0o777 == 0o700, folder


def test_one_that_does_not_is_told(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    (config.vault_path / "intake").mkdir(parents=True)
    (config.vault_path / "intake" / "x.bad").touch()
    config.vault_path.chmod(0o755)
    (tmp_path / "pw").chmod(0o644)
    found = {f.check: f for f in check_vault(config)}
    for check in ("secret", "folder", "ingest", "listen", "intake"):
        assert found[check].level is Level.FAIL, check
        assert found[check].fix
    assert check_vault(msgspec.structs.replace(config, vault=None)) == []


def test_of_one_on_another_machine_only_its_listeners_are_asked(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    assert config.vault
    elsewhere = msgspec.structs.replace(config.vault, ingest="192.0.2.1:8446")  # RFC 5737
    found = {f.check for f in check_vault(msgspec.structs.replace(config, vault=elsewhere))}
    assert found == {"keys", "ingest", "listen"}


@pytest.mark.parametrize(("free", "level"), [(500, Level.OK), (99, Level.WARN), (9, Level.FAIL)])
def test_room(free: int, level: Level) -> None:
    assert judge_room(free, 1000, 10).level is level


def test_keys_and_folder() -> None:
    assert judge_keys(VaultConfig()).level is Level.FAIL
    assert judge_keys(VaultConfig(duties="ingest")).level is Level.OK
    assert judge_folder(Path("/x"), None).level is Level.WARN
