from __future__ import annotations

from pathlib import Path

from tests.unit.cli.conftest import Pbxctl


def test_writes_a_nodes_files_once(bare: Pbxctl, tmp_path: Path) -> None:
    bare("init", "--demo")
    ran = bare("render", "a1", "--into", "out", "-o", "json")
    assert ran.code == 0
    files = ran.json["files"]
    assert files
    for path in files:
        assert (tmp_path / "out" / path).is_file()
    again = bare("render", "a1", "--into", "out")
    assert (again.code, again.out) == (0, "")
    assert "up to date" in again.err


def test_files_for_another_machine_name_its_folder(bare: Pbxctl, tmp_path: Path) -> None:
    bare("init", "--demo")
    for node in ("a1", "redis"):
        bare("render", node, "--into", "out", "--at", "/etc/there")
    texts = [path.read_text() for path in (tmp_path / "out").rglob("*.conf")]
    assert any("/etc/there/tls/control.key" in text for text in texts)
    assert not any(str(tmp_path) in text for text in texts)


def test_dry_run_says_what_would_be_written_and_writes_nothing(
    bare: Pbxctl, tmp_path: Path
) -> None:
    bare("init", "--demo")
    told = bare("render", "a1", "--into", "out", "--dry-run", "-o", "json").json["files"]
    assert not (tmp_path / "out").exists()
    assert bare("render", "a1", "--into", "out", "-o", "json").json["files"] == told
    (tmp_path / "out" / "pbxctl-pjsip.conf").unlink()
    ran = bare("render", "a1", "--into", "out", "--dry-run")
    assert ran.out == f"{tmp_path}/out/pbxctl-pjsip.conf would be written\n"
    assert not (tmp_path / "out" / "pbxctl-pjsip.conf").exists()


def test_an_unknown_name_is_wrong_usage(bare: Pbxctl) -> None:
    bare("init", "--demo")
    ran = bare("render", "b1", "-o", "json")
    assert ran.code == 2
    assert "a1" in ran.error["hint"]
