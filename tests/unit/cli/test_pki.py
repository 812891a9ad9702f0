"""pbxctl pki request, sign, accept: three commands, two files, no key that travels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Pbxctl
from tests.unit.test_pki import TEXT


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    return config(tmp_path / "ca")


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return config(tmp_path / "node")


def config(folder: Path) -> Path:
    folder.mkdir()
    (folder / "pw").write_text("x\n")
    (folder / "pw").chmod(0o600)
    file = folder / "pbxctl.yaml"
    file.write_text(TEXT)
    return file


def test_from_request_to_render(bare: Pbxctl, ca: Path, node: Path, tmp_path: Path) -> None:
    at_ca, at_node = ("--config", str(ca)), ("--config", str(node))
    asked, signed = tmp_path / "asked", tmp_path / "signed"
    assert bare("pki", "renew", *at_ca).code == 0
    assert bare("pki", "request", "ast", "-f", str(asked), "--dry-run", *at_node).code == 0
    assert not asked.exists()
    ran = bare("pki", "request", "ast", "-f", str(asked), *at_node)
    assert (ran.code, "pbxctl pki sign asked" in ran.out) == (0, True)
    again = bare("pki", "request", "ast", "-f", str(asked), *at_node)
    assert (again.code, "File exists" in again.err) == (2, True)
    assert bare("pki", "sign", str(asked), "-f", str(signed), "--dry-run", *at_ca).code == 0
    assert not signed.exists()
    assert (ca.parent / "pki" / "sip" / "ast.key").exists(), "a dry run changes nothing"
    assert bare("pki", "sign", str(asked), "-f", str(signed), *at_ca).code == 0
    assert "PRIVATE" not in asked.read_text() + signed.read_text()
    assert bare("pki", "accept", str(signed), *at_node).code == 0
    ran = bare("render", "ast", "--into", str(tmp_path / "etc"), *at_node)
    assert ran.code == 0, ran.err
    assert (tmp_path / "etc" / "tls" / "sip.key").exists()


def test_a_taken_file_costs_the_authority_nothing(
    bare: Pbxctl, ca: Path, node: Path, tmp_path: Path
) -> None:
    bare("pki", "renew", "--config", str(ca))
    asked = tmp_path / "asked"
    bare("pki", "request", "ast", "-f", str(asked), "--config", str(node))
    ran = bare("pki", "sign", str(asked), "-f", str(asked), "--config", str(ca))
    assert ran.code == 2
    assert (ca.parent / "pki" / "sip" / "ast.key").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["request", "nobody", "-f", "new"], "there is no node or edge"),
        (["sign", "absent", "-f", "new"], "cannot be read"),
        (["sign", "pw", "-f", "new"], "is no request of pbxctl pki"),
        (["accept", "pw"], "is no answer of pbxctl pki"),
    ],
)
def test_bad_input_is_told(
    bare: Pbxctl, ca: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], says: str
) -> None:
    monkeypatch.chdir(ca.parent)
    ran = bare("pki", *argv, "--config", str(ca))
    assert (ran.code, says in ran.err) == (2, True), ran.err
    assert not (ca.parent / "new").exists()


def test_a_person_is_told_of_the_vault_where_there_is_one(bare: Pbxctl, ca: Path) -> None:
    at_ca = ("--config", str(ca))
    assert bare("pki", "renew", *at_ca).code == 0
    assert "--vault" not in bare("pki", "issue", "anna", "--role", "auditor", *at_ca).out
    with ca.open("a") as file:
        file.write("vault: {listen: '192.0.2.5:8445', duties: ingest}\n")
    told = bare("pki", "issue", "carl", "--role", "custodian", *at_ca).out
    assert "--gate https://127.0.0.1:8443 --vault https://192.0.2.5:8445 --cert carl.pem" in told
