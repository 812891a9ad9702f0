"""Bad input in the config file: one error that names file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.config import Config, read_secret
from controller.config_file import load, parse
from controller.errors import ConfigError
from controller.media.policy import Demands

GOOD = """\
fleet: main
regions:
  east: {spill_to: [west]}
  west: {}
nodes:
  east-1:
    kind: asterisk
    region: east
    sip: 192.0.2.1:5060
    control: 192.0.2.1:5038
    password_file: secret
    calls_max: 10
  west-1:
    kind: freeswitch
    region: west
    sip: "[2001:db8::1]:5060"
    control: 127.0.0.1:8022
    password_file: secret
edges:
  kamailio: {region: east, sip: 192.0.2.9:5060}
numbers:
  - {prefix: "400", service: queue, regions: [east], priority: high}
  - {prefix: "95", service: ivr}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    secret.chmod(0o600)
    return tmp_path


def read(folder: Path, text: str) -> Config:
    path = folder / "pbxctl.yaml"
    path.write_text(text)
    return load(path)


def test_a_whole_config(folder: Path) -> None:
    config = read(folder, GOOD)
    assert config.nodes["east-1"].calls_max == 10
    assert config.nodes["west-1"].weight == 1
    assert config.regions["east"].spill_to == ("west",)
    assert config.path("secret") == folder / "secret"
    assert read_secret(config.path("secret")) == "hush"


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "says"),
    [
        ("calls_max", "calls_mx", 12, "nodes.east-1.calls_mx", "unknown key"),
        ("calls_max: 10", "calls_max: 0", 12, "nodes.east-1.calls_max", ">= 1"),
        ("calls_max: 10", "calls_max: ten", 12, "nodes.east-1.calls_max", "int"),
        ("calls_max: 10", "calls_max: 1.5", 12, "nodes.east-1.calls_max", "int"),
        ("region: east\n    sip", "region: eats\n    sip", 8, "nodes.east-1.region", "eats"),
        ("west-1:", "east-1:", 13, "nodes.east-1", "second time (first at line 6)"),
        ("kind: asterisk", "kind: 3cx", 7, "nodes.east-1.kind", "3cx"),
        ("    kind: asterisk\n", "", 6, "nodes.east-1", "kind"),
        ("password_file: secret\n    calls", "password_file: none\n    calls", 11,
         "nodes.east-1.password_file", "secret is missing"),
        ("sip: 192.0.2.1:5060", "sip: 192.0.2.1", 9, "nodes.east-1.sip", "host:port"),
        ("sip: 192.0.2.1:5060", "sip: 192.0.2.1:70000", 9, "nodes.east-1.sip", "host:port"),
        ("192.0.2.9:5060", "192.0.2.1:5060", 20, "edges.kamailio.sip", "taken by east-1"),
        ("[west]}", "[wset]}", 3, "regions.east.spill_to", "wset"),
        ("service: queue", "service: qeue", 22, "numbers.0.service", "qeue"),
        ('prefix: "95"', 'prefix: "400"', 23, "numbers.1.prefix", "twice"),
        ('prefix: "95"', "prefix: 95", 23, "numbers.1.prefix", "str"),
        ("east-1:", "'east 1':", 6, "nodes.east 1", "names have"),
        ("fleet: main", "fleet: main\nfleet: other", 2, "fleet", "second time"),
        ("fleet: main", "fleet: main\nsource: x", 2, "source", "unknown key"),
        ("fleet: main", "fleet: main\ngate: {listen: everywhere}", 2, "gate.listen", "host:port"),
        ("fleet: main", "fleet: main\nsecurity: {signaling: tls}", 2, "security.signaling",
         "unknown key"),
        ("fleet: main", "fleet: main\nsecurity: {signalling: tcp}", 2, "security.signalling",
         "tcp"),
        ("fleet: main", "fleet: main\nmedia: {trunks: off}", 2, "media.trunks", "unknown key"),
        ("fleet: main", "fleet: main\nmedia: {trunk: maybe}", 2, "media.trunk", "maybe"),
        ("fleet: main", "fleet: main\nmedia: {phones: yes}", 2, "media.phones", "bool"),
        ("fleet: main", "fleet: main\nmedia: {peers: {telco: none}}", 2, "media.peers", "none"),
        ("fleet: main", "fleet: main\nmedia: {sample_share: 1.1}", 2, "media.sample_share",
         "<= 1"),
        ("fleet: main", "fleet: main\nsecurity: {media: zrtp}", 2, "security.media", "zrtp"),
        ("fleet: main", "fleet: main\nsecurity: {media: dtls-srtp}", 2, "security.media",
         "FreeSWITCH (west-1)"),
        ("fleet: main", "fleet: main\nphones: {tls_min: '1.1'}", 2, "phones.tls_min", "1.1"),
        ("fleet: main", "fleet: main\nsecurity: {control: no}", 2, "security.control", "bool"),
        ("fleet: main", "fleet: main\nsecurity: {signalling: plain}", 2, "security.media",
         "in clear"),
        ("fleet: main", "fleet: main\nsecurity: {plain_peers: [{address: 192.0.2.7}]}", 2,
         "security.plain_peers.0", "reason is missing"),
        ("fleet: main",
         "fleet: main\nsecurity: {plain_peers: [{address: 192.0.2.7, reason: old}]}", 2,
         "security.plain_peers.0.reason", "length"),
        ("fleet: main",
         "fleet: main\nsecurity: {plain_peers: [{address: 192.0.2.7, reason: has no TLS}]}", 2,
         "security.plain_peers", "need a PBX"),
        ("fleet: main",
         "fleet: main\nsecurity: {media: plain, plain_peers: [{address: pbx, reason: no TLS yet}]}",
         2,
         "security.plain_peers.0.address", "pbx"),
        ("fleet: main", "fleet: main\nsecurity: {plain_port: 0}", 2, "security.plain_port",
         ">= 1"),
        ("password_file: secret\nedges", "password_file: secret\n    event_socket: 192.0.2.2:8021"
         "\nedges", 19, "nodes.west-1.event_socket", "not loopback"),
        ("fleet: main", "fleet: main\nredis: {users: secrets}", 2, "redis.users", "no users"),
        ("fleet: main", "fleet: main\nredis: {url: redis://h, users: s, password_file: p}", 2,
         "redis.users", "password_file"),
        ("fleet: main", "fleet: main\nredis: {url: https://h}", 2, "redis.url", "no redis://"),
        ("fleet: main", "fleet: main\nredis: {url: redis://h:70000}", 2, "redis.url", "port"),
        ("fleet: main", "fleet: main\nredis: {url: redis://h/zero}", 2, "redis.url", "'zero'"),
        ("fleet: main", "fleet: main\nredis: {url: 'redis://:pw@h'}", 2, "redis.url", "password"),
        ("fleet: main", "fleet: main\nredis: {url: unix://}", 2, "redis.url", "no socket"),
        ("fleet: main", "fleet: main\nrecords: {url: mysql://h}", 2, "records.url", "PostgreSQL"),
        ("fleet: main", "fleet: main\nrecords: {url: 'postgresql://u:pw@h/b'}", 2, "records.url",
         "without a password"),
        ("east-1:", "redis:", 6, "nodes.redis", "name of the server"),
        ("calls_max: 10", "phones: 192.0.2.1:5038", 12, "nodes.east-1.phones", "taken by east-1"),
        ("127.0.0.1:8022", "127.0.0.1:8021", 13, "nodes.west-1.event_socket",
         "stunnel listens"),
        ("calls_max: 10", "names: ['not a name']", 12, "nodes.east-1.names.0", "no DNS name"),
        ("calls_max: 10", "media: sbc.example.org", 12, "nodes.east-1.media", "IPv4"),
        ("password_file: secret\nedges", "password_file: secret\n    media: 192.0.2.2\nedges", 19,
         "nodes.west-1.media", "one address"),
        ("sip: 192.0.2.9:5060", "sip: 192.0.2.9:5060, outside: 192.0.2.1", 20,
         "edges.kamailio.outside", "192.0.2.1"),
        ("sip: 192.0.2.9:5060", "sip: 192.0.2.1:5059, outside: 198.51.100.1:5060", 20,
         "edges.kamailio.outside", "taken by east-1"),
        ("kamailio:", "east-1:", 20, "edges.east-1", "name already"),
        ("fleet: main", "fleet: main\nplacement: {silent_after_s: 5}", 2,
         "placement.silent_after_s", "<= 2"),
        ("fleet: main", "fleet: [", 3, "", "expected"),
    ],
)  # fmt: skip
def test_each_mistake_names_its_place(
    folder: Path, old: str, new: str, line: int, key: str, says: str
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read(folder, GOOD.replace(old, new, 1))
    error = caught.value
    assert (error.line, error.key) == (line, key), str(error)
    assert says in str(error)
    assert str(error).startswith(f"{folder / 'pbxctl.yaml'}:{line}: ")
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("calls_max", "calls_mx", "did you mean calls_max?"),
        ("nodes:", "nodez:", "did you mean nodes?"),
        ("fleet: main", "fleet: main\nplacement: {spil_above: 1}", "did you mean spill_above?"),
        ("fleet: main", "fleet: main\nmedia: {all: off}", "known: trunk, phones, peers, "),
        ("fleet: main", "fleet: main\nvault: {keys: {provider: file, pass: x}}", "passphrase_file"),
        ('prefix: "95"', 'number: "95"', "known: prefix, service, "),
        ("kind: asterisk", "kind: 3cx", "known: asterisk, freeswitch"),
        ("service: queue", "service: qeue", "did you mean queue?"),
        ("fleet: main", "fleet: main\nmedia: {peers: {telco: maybe}}", "known: "),
    ],
)
def test_a_word_that_is_not_known_is_answered_by_those_that_are(
    folder: Path, old: str, new: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(folder, GOOD.replace(old, new, 1))
    assert hint in caught.value.hint


def test_who_makes_the_secrets_reads_the_file_without_them(folder: Path) -> None:
    (folder / "secret").unlink()
    assert parse(GOOD, str(folder / "pbxctl.yaml"), secrets_there=False).fleet == "main"
    with pytest.raises(ConfigError, match="secret is missing"):
        parse(GOOD, str(folder / "pbxctl.yaml"))


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load(tmp_path / "absent.yaml")
    assert "pbxctl init" in caught.value.hint


@pytest.mark.parametrize(
    ("more", "trunk", "phones"),
    [
        ("", "require", "require"),
        ("security: {media: dtls-srtp, signalling: plain}", "require", "require"),
        ("security: {media: plain}", "off", "off"),
        ("security: {media: plain}\nmedia: {phones: prefer}", "off", "prefer"),
        ("media: {trunk: off, peers: {telco: off}}", "off", "require"),
    ],
)
def test_encryption_is_demanded_unless_the_config_says_otherwise(
    folder: Path, more: str, trunk: str, phones: str
) -> None:
    text = GOOD.replace("kind: freeswitch", "kind: asterisk") if "dtls" in more else GOOD
    demands = Demands.of(read(folder, text + more + "\n"))
    assert (demands.of_peer("pbxctl-trunk"), demands.of_peer("1001")) == (trunk, phones)


@pytest.mark.parametrize(("mode", "text"), [(0o644, "x"), (0o600, ""), (0o600, "\n")])
def test_a_secret_that_is_open_or_empty_is_refused(tmp_path: Path, mode: int, text: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(text)
    secret.chmod(mode)
    with pytest.raises(ConfigError):
        read_secret(secret)


def test_nested_aliases_do_not_explode(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in range(10))}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="more than"):
        parse("\n".join(lines), str(tmp_path / "bomb.yaml"))


@given(st.text(max_size=200))
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text, "pbxctl.yaml")
