"""What `render` writes: complete, closed, and never more than the template meant."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from controller.config import Config, PlainPeer, SecurityConfig
from controller.config_file import parse
from controller.errors import ConfigError, UsageError
from controller.pki.store import renew_due
from controller.render.file import File
from controller.render.files import Rendered, render
from controller.render.write import write

SECRET = "s3cret-of-the-node"
TEXT = """
fleet: demo
regions: {eu: {}, us: {}}
nodes:
  ast: {kind: asterisk, region: eu, sip: "192.0.2.1:5060", control: "127.0.0.1:5038", password_file: pw, edge: true}
  fs: {kind: freeswitch, region: us, sip: "192.0.2.2:5060", control: "127.0.0.1:8022", password_file: pw, edge: true}
edges:
  kam: {region: eu, sip: "192.0.2.9:5060", peers: [198.51.100.0/24]}
numbers:
  - {prefix: "4", service: phone}
  - {prefix: "400", service: queue}
  - {prefix: "+49", service: ivr}
"""  # noqa: E501

#: breaks out of at least one of: Asterisk's files, Kamailio's, XML, Lua, ${} of FreeSWITCH
HOSTILE = [
    "a\nb",
    'a"b',
    "a;b",
    "a,b",
    "a&b",
    "a<b",
    "a>b",
    "$x",
    "${x}",
    "a\\b",
    "a b",
    "a#b",
    "é",
]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "pw").write_text(SECRET + "\n")
    (tmp_path / "pw").chmod(0o600)
    (tmp_path / "redis").write_text("redis-secret\n")
    (tmp_path / "redis").chmod(0o600)
    made = parse(TEXT, str(tmp_path / "pbxctl.yaml"))
    renew_due(made, dt.datetime.now(dt.UTC))
    return made


def with_node(config: Config, name: str, **changes: object) -> Config:
    node = msgspec.structs.replace(config.nodes[name], **changes)
    return msgspec.structs.replace(config, nodes=config.nodes | {name: node})


@pytest.mark.parametrize("name", ["ast", "fs", "kam"])
def test_a_secret_stands_only_in_files_for_their_owner(config: Config, name: str) -> None:
    redis = msgspec.structs.replace(config.redis, password_file="redis")
    files = render(msgspec.structs.replace(config, redis=redis), name).files
    holding = {p for p, f in files.items() if SECRET in f.text or "redis-secret" in f.text}
    assert len(holding) == 1
    assert all(files[path].mode == 0o600 for path in holding)


@pytest.mark.parametrize("value", [*HOSTILE[1:], "a\x0bb", "a\x00b"])  # a secret has one line
@pytest.mark.parametrize("name", ["ast", "fs"])
def test_a_password_that_could_break_out_is_refused_and_not_shown(
    config: Config, name: str, value: str
) -> None:
    (config.path("pw")).write_text(value + "x\n")
    with pytest.raises(UsageError) as refusal:
        render(config, name)
    assert value not in str(refusal.value)


@pytest.mark.parametrize("value", HOSTILE)
def test_a_user_that_could_break_out_is_refused(config: Config, value: str) -> None:
    with pytest.raises(UsageError):
        render(with_node(config, "ast", user=value), "ast")


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", ["kam", "fs"])
def test_a_folder_that_could_break_out_is_refused(config: Config, name: str, value: str) -> None:
    with pytest.raises(UsageError):
        render(config, name, Path("/srv") / value)


def test_trunk_peers_are_addresses_not_names(config: Config) -> None:
    with pytest.raises(UsageError, match="by IP address"):
        render(with_node(config, "fs", sip="fs.example.net:5060"), "ast")


def test_the_fleets_own_addresses_are_trunk_peers_and_no_others(config: Config) -> None:
    text = render(config, "ast").files["pbxctl-pjsip.conf"].text
    matches = [line.split("= ")[1] for line in text.splitlines() if line.startswith("match = ")]
    assert sorted(matches) == ["192.0.2.2", "192.0.2.9"]


def test_freeswitch_sees_the_longest_prefix_first(config: Config) -> None:
    text = render(config, "fs").files["pbxctl-dialplan.xml"].text
    assert text.index('"^(400[') < text.index('"^(4[')
    assert '"^([+]49[' in text


@pytest.mark.parametrize(
    "url", ["https://r:6379", "redis://user:pw@r:6379", "redis://r:6379/zero", "redis://r/0;x=1"]
)
def test_a_redis_that_kamailio_cannot_use_is_refused(config: Config, url: str) -> None:
    redis = msgspec.structs.replace(config.redis, url=url)
    with pytest.raises(UsageError):
        render(msgspec.structs.replace(config, redis=redis), "kam")


def test_an_unknown_name_is_refused(config: Config) -> None:
    with pytest.raises(UsageError, match="no node or edge"):
        render(config, "nobody")


def test_write_keeps_what_is_the_operators_and_mends_what_is_ours(tmp_path: Path) -> None:
    rendered = Rendered("n", tmp_path / "out", {"a": File("1"), "k": File("1", keep=True)})
    assert write(rendered) == ["a", "k"]
    (tmp_path / "out" / "k").write_text("mine")
    (tmp_path / "out" / "a").chmod(0o666)
    again = replace(rendered, files={"a": File("1", 0o600), "k": File("2", keep=True)})
    assert write(again) == ["a"]
    assert (tmp_path / "out" / "k").read_text() == "mine"
    assert (tmp_path / "out" / "a").stat().st_mode & 0o777 == 0o600
    assert write(again) == []
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a", "k"}


def test_write_says_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="cannot be written"):
        write(Rendered("n", tmp_path / "out", {"a": File("1")}))


@pytest.mark.parametrize(
    ("name", "media"),
    [*((name, "srtp-sdes") for name in ("ast", "fs", "kam")),
     ("ast", "dtls-srtp"), ("kam", "dtls-srtp")],
)  # fmt: skip
def test_an_encrypted_fleet_listens_for_nothing_in_clear(
    config: Config, name: str, media: str
) -> None:
    security = msgspec.structs.replace(config.security, media=media)
    files = render(msgspec.structs.replace(config, security=security), name).files
    text = "\n".join(file.text for file in files.values())
    assert "protocol = udp" not in text
    assert "protocol = tcp" not in text
    assert "listen=udp" not in text
    assert "listen=tcp" not in text
    assert 'name="sip-port"' not in text
    keys = [path for path, file in files.items() if "PRIVATE KEY" in file.text]
    assert keys
    assert all(files[path].mode == 0o600 for path in keys)


def test_a_plain_peer_opens_udp_where_it_calls(config: Config) -> None:
    peer = PlainPeer(address="198.51.100.7", reason="its gateway has no TLS")
    security = msgspec.structs.replace(config.security, plain_peers=(peer,), plain_port=5070)
    config = msgspec.structs.replace(config, security=security)
    assert "udp" not in render(config, "kam").files["kamailio.cfg"].text.split("modparam")[0]
    asterisk = render(config, "ast").files["pbxctl-pjsip.conf"].text
    assert "bind = 192.0.2.1:5070" in asterisk
    assert "match = 198.51.100.7" in asterisk
    freeswitch = render(config, "fs").files["pbxctl-profile.xml"].text
    assert '<param name="sip-port" value="5070"/>' in freeswitch
    assert '<param name="apply-inbound-acl" value="198.51.100.7/32"/>' in freeswitch
    quiet = with_node(config, "ast", edge=False)
    assert "udp" not in render(quiet, "ast").files["pbxctl-pjsip.conf"].text


def test_a_kamailio_serves_plain_peers_where_no_keys_are_in_sip(config: Config) -> None:
    peer = PlainPeer(address="198.51.100.7", reason="its gateway has no TLS")
    for media, serves in (("plain", True), ("dtls-srtp", True), ("srtp-sdes", False)):
        security = SecurityConfig(media=media, plain_peers=(peer,), plain_port=5070)  # type: ignore[arg-type]
        files = render(msgspec.structs.replace(config, security=security), "kam").files
        assert ("listen=udp:192.0.2.9:5070" in files["kamailio.cfg"].text) is serves
        assert ("3 198.51.100.7 32 0" in files["pbxctl-address.list"].text) is serves


def test_a_fleet_in_clear_needs_no_certificate(config: Config) -> None:
    shutil.rmtree(config.path(config.pki.folder))
    clear = SecurityConfig(signalling="plain", media="plain", control="plain")
    plain = msgspec.structs.replace(config, security=clear)
    for name in ("ast", "fs", "kam"):
        assert not [path for path in render(plain, name).files if path.startswith("tls/")]
        with pytest.raises(ConfigError, match="pki"):
            render(config, name)


def test_a_folder_of_a_group_is_read_by_it(tmp_path: Path) -> None:
    """chmod g+s says that the PBX, another user than the agent, reads what is written there."""
    shared = tmp_path / "asterisk"
    shared.mkdir()
    shared.chmod(0o2770)
    files = {"secret": File("x", 0o600), "open": File("y")}
    for folder, modes in ((shared, [0o640, 0o644]), (tmp_path / "own", [0o600, 0o644])):
        made = Rendered("a", folder, files)
        assert write(made) == ["secret", "open"]
        assert [(folder / name).stat().st_mode & 0o777 for name in files] == modes
        assert write(made) == []
