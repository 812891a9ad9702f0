from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

from controller.config_file import load
from tests.unit.cli.conftest import Pbxctl


def test_the_demo_is_a_good_config_with_closed_secrets(bare: Pbxctl, tmp_path: Path) -> None:
    assert bare("init", "--demo").code == 0
    config = load(tmp_path / "pbxctl.yaml")
    assert {n.region for n in config.nodes.values()} == {"east", "west"}
    words = set()
    for node in config.nodes.values():
        secret = config.path(node.password_file)
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        words.add(secret.read_text().strip())
    assert len(words) == len(config.nodes)
    assert all(len(word) >= 24 for word in words)
    assert not any(word in (tmp_path / "pbxctl.yaml").read_text() for word in words)


def test_nothing_is_overwritten(bare: Pbxctl, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "a1").write_text("mine\n")
    assert bare("init", "--demo").code == 0
    assert (tmp_path / "secrets" / "a1").read_text() == "mine\n"
    before = (tmp_path / "pbxctl.yaml").read_text()
    ran = bare("init", "--demo", "--fleet", "other")
    assert ran.code == 2
    assert (tmp_path / "pbxctl.yaml").read_text() == before


def test_nodes_by_flags(bare: Pbxctl, tmp_path: Path) -> None:
    nodes = ("--node", "p1=asterisk:192.0.2.1@east", "--node", "p2=freeswitch:[2001:db8::1]")
    assert bare("init", "--fleet", "q", *nodes, "--redis", "redis://192.0.2.9").code == 0
    config = load(tmp_path / "pbxctl.yaml")
    assert config.fleet == "q"
    assert config.redis.url == "redis://192.0.2.9"
    assert config.nodes["p1"].control == "192.0.2.1:5039"
    assert config.nodes["p2"].control == "[2001:db8::1]:8022"
    assert config.nodes["p2"].region == "main"


@pytest.mark.parametrize(
    "node",
    [
        "p1",
        "p1=cisco:192.0.2.1",
        "../p=asterisk:192.0.2.1",
        "p1=asterisk:a b",
        'p1=asterisk:h"x',
        "p1=asterisk:h@../r",
    ],
)
def test_a_wrong_node_writes_nothing(bare: Pbxctl, tmp_path: Path, node: str) -> None:
    ran = bare("init", "--node", node)
    assert ran.code == 2
    assert not (tmp_path / "pbxctl.yaml").exists()
    assert not (tmp_path / "secrets").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--node", "a=asterisk:h", "--node", "a=asterisk:g"), "there are two nodes 'a'"),
        (("--node", "a=asterisk:h", "--node", "b=asterisk:h"), "nodes.b.sip: h:5061 is taken"),
        (("--node", "redis=asterisk:h"), "nodes.redis: is the name of the server"),
        (("--node", "a=asterisk:h", "--redis", "http://h"), "redis.url: is no redis://"),
    ],
)
def test_options_that_make_no_config_write_nothing(
    bare: Pbxctl, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    ran = bare("init", "--into", "x", *words)
    assert (ran.code, ran.err.startswith(f"Error: {says}")) == (2, True), ran.err
    assert not (tmp_path / "x").exists()


def test_a_wrong_answer_is_asked_for_again(
    bare: Pbxctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ("My Fleet", "f", "pbx_1", "p", "cisco", "asterisk", "a b", "h", "E", "east", "p", "")
    typed = io.StringIO("\n".join(answers) + "\n")
    monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", typed)
    ran = bare("init")
    assert ran.code == 0, ran.err
    config = load(tmp_path / "pbxctl.yaml")
    assert (config.fleet, list(config.nodes), config.nodes["p"].region) == ("f", ["p"], "east")
    for wrong in ("'My Fleet'", "'pbx_1'", "'cisco'", "'a b'", "'E'", "a node 'p' already"):
        assert wrong in ran.out


def test_nobody_to_ask(bare: Pbxctl) -> None:
    ran = bare("init")
    assert ran.code == 2
    assert "--node" in ran.err
