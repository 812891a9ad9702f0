"""Reads a config file: one YAML document, checked as a whole before anything starts.

`load` answers a frozen `Config` or raises one ConfigError that names file, line and key. Limits
of single values stand in config.py's types; what spans several keys is checked here.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from controller.config import Config, EdgeConfig, NodeConfig, RegionConfig, split_address
from controller.config_hints import meant
from controller.config_urls import records_fault, redis_fault
from controller.errors import ConfigError
from controller.model import Kind

_NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")
_DNS_NAME = re.compile(r"^(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.?){1,127}$")
_FILE_BYTES_MAX = 4 << 20
_YAML_NODES_MAX = 200_000


class _Document:
    """A YAML document as plain values, and the line of each path in it."""

    def __init__(self, text: str, file: str):
        self.file = file
        self.lines: dict[tuple[str, ...], int] = {(): 1}
        self._seen = 0
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            raise ConfigError(
                str(getattr(error, "problem", None) or "not YAML"),
                file=file,
                line=mark.line + 1 if mark else 0,
                hint="check indentation, colons and quotes at that line",
            ) from error
        self.value = self._walk(root, ()) if root is not None else {}

    def error(self, path: tuple[str, ...], message: str, *, hint: str = "") -> ConfigError:
        near = path
        while near and near not in self.lines:
            near = near[:-1]
        return ConfigError(
            message, file=self.file, line=self.lines[near], key=".".join(path), hint=hint
        )

    def _walk(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        self._seen += 1  # an alias counts each time it is used, so nesting them cannot explode
        if self._seen > _YAML_NODES_MAX:
            raise self.error((), f"more than {_YAML_NODES_MAX} values")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._walk(item, (*path, str(i))) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.value == "off":
            return "off"  # a word, as in YAML 1.2; 1.1 makes it false
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.error(path, f"cannot be read: {error}") from error

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*path, key)
            if key in values:
                first = self.lines[here]
                self.lines[here] = key_node.start_mark.line + 1
                raise self.error(
                    here,
                    f"stands here a second time (first at line {first})",
                    hint="remove or rename one of the two",
                )
            self.lines[here] = key_node.start_mark.line + 1
            values[key] = self._walk(value_node, here)
        return values


S = TypeVar("S", bound=msgspec.Struct)
_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<at>.*)`)?$", re.S)
_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<key>[^`]*)`")
_NO_SUCH = re.compile(r"^Invalid enum value '(?P<word>.*)'$", re.S)


def _convert(doc: _Document, value: Any, kind: type[S], path: tuple[str, ...]) -> S:
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        match = _AT.match(str(error))
        assert match  # noqa: S101 - the pattern matches any text
        what = match["what"]
        inner = tuple(part for part in re.split(r"[.\[\]]+", match["at"] or "") if part)
        if unknown := _UNKNOWN.search(what):
            known = meant(kind, inner, unknown["key"])
            where = (*path, *inner, unknown["key"])
            raise doc.error(where, "unknown key", hint=known) from error
        if wrong := _NO_SUCH.match(what):
            known = meant(kind, inner, wrong["word"])
            raise doc.error((*path, *inner), what, hint=known) from error
        if missing := _MISSING.search(what):
            raise doc.error((*path, *inner), f"{missing['key']} is missing") from error
        raise doc.error((*path, *inner), what) from error


def _named(doc: _Document, key: str, kind: type[S], required: bool) -> dict[str, S]:
    section = doc.value.get(key)
    if section is None and not required:
        return {}
    if not isinstance(section, dict) or not section:
        raise doc.error((key,), f"{key} must be a mapping of name to settings, with one or more")
    for name in section:
        if not _NAME.match(name):
            raise doc.error((key, name), "names have a-z, 0-9, '-' and '.', at most 63 characters")
    return {name: _convert(doc, value, kind, (key, name)) for name, value in section.items()}


def load(path: Path) -> Config:
    """Reads and checks the file at `path`. Raises ConfigError (exit code 2)."""
    file = str(path)
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise ConfigError(f"larger than {_FILE_BYTES_MAX >> 20} MiB", file=file)
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no such file",
            file=file,
            hint="run `pbxctl init`, or name one by --config or PBXCTL_CONFIG",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=file) from error
    return parse(text, file)


def parse(text: str, file: str, *, secrets_there: bool = True) -> Config:
    """As `load`, from a text; `file` is for messages and relative paths.

    secrets_there: False for who makes the secrets that the file names.
    """
    doc = _Document(text, file)
    if not isinstance(doc.value, dict):
        raise doc.error((), "the file must be a mapping with fleet, regions and nodes")
    if "source" in doc.value:
        raise doc.error(("source",), "unknown key")
    rest = {k: v for k, v in doc.value.items() if k not in ("nodes", "regions", "edges")}
    # First, for a mistyped `nodes` is no file without nodes.
    shell = _convert(doc, rest | {"nodes": {}, "regions": {}}, Config, ())
    regions = _named(doc, "regions", RegionConfig, True)
    nodes = _named(doc, "nodes", NodeConfig, True)
    edges = _named(doc, "edges", EdgeConfig, False)
    config = msgspec.structs.replace(
        shell, nodes=nodes, regions=regions, edges=edges, source=str(Path(file).absolute())
    )
    _cross_check(doc, config)
    if secrets_there:
        _check_secrets(doc, config)
    return config


def _cross_check(doc: _Document, config: Config) -> None:
    for name, region in config.regions.items():
        for other in region.spill_to:
            _known_region(doc, config, other, ("regions", name, "spill_to"))
    for section, members in (("nodes", config.nodes), ("edges", config.edges)):
        for name, member in members.items():
            _known_region(doc, config, member.region, (section, name, "region"))
    _check_addresses(doc, config)
    _check_numbers(doc, config)
    if config.gate.listen != "unix":
        _address(doc, config.gate.listen, ("gate", "listen"))
    if config.vault:
        _address(doc, config.vault.ingest, ("vault", "ingest"))
        _address(doc, config.vault.listen, ("vault", "listen"))
    if config.records.url is not None and (fault := records_fault(config.records.url)):
        hint = "as in postgresql://pbxctl@db.example/pbxctl, with records.password_file"
        raise doc.error(("records", "url"), fault, hint=hint)
    _check_recordings(doc, config)
    _check_security(doc, config)
    _check_redis(doc, config)


def _check_secrets(doc: _Document, config: Config) -> None:
    for name, node in config.nodes.items():
        if not config.path(node.password_file).is_file():
            raise doc.error(
                ("nodes", name, "password_file"),
                f"secret is missing: {config.path(node.password_file)}",
                hint="write the node's control password into that file, one line, mode 0600",
            )


def _known_region(doc: _Document, config: Config, name: str, path: tuple[str, ...]) -> None:
    if name not in config.regions:
        near = difflib.get_close_matches(name, config.regions, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(config.regions)}"
        raise doc.error(path, f"there is no region {name!r}", hint=hint)


def _address(doc: _Document, address: str, path: tuple[str, ...]) -> None:
    try:
        split_address(address)
    except ValueError as error:
        raise doc.error(path, str(error), hint="as in 192.0.2.10:5060") from error


def _check_addresses(doc: _Document, config: Config) -> None:
    taken: dict[str, str] = {}

    def claim(address: str, owner: str, path: tuple[str, ...]) -> None:
        _address(doc, address, path)
        if address in taken:
            raise doc.error(path, f"{address} is taken by {taken[address]} already")
        taken[address] = owner

    for name, node in config.nodes.items():
        claim(node.sip, name, ("nodes", name, "sip"))
        claim(node.control, name, ("nodes", name, "control"))
        if config.security.signalling == "tls":
            claim(node.phones_sip, name, ("nodes", name, "phones"))
        _check_networks(doc, node.control_from, ("nodes", name, "control_from"))
        _check_media(doc, node, ("nodes", name, "media"))
    for name, edge in config.edges.items():
        if name in config.nodes:
            raise doc.error(("edges", name), "a node has this name already", hint="rename one")
        claim(edge.sip, name, ("edges", name, "sip"))
        if edge.outside:
            claim(edge.nat_sip, name, ("edges", name, "outside"))
            claim(edge.outside, name, ("edges", name, "outside"))
        _check_networks(doc, edge.peers, ("edges", name, "peers"))


def _check_media(doc: _Document, node: NodeConfig, path: tuple[str, ...]) -> None:
    if node.media is None:
        return
    if node.kind is not Kind.ASTERISK:
        raise doc.error(
            path,
            "a FreeSWITCH tells every caller of a profile one address",
            hint="give it an address without NAT, or ext-rtp-ip in your own part of its profile",
        )
    try:
        ipaddress.ip_address(node.media)
    except ValueError as error:
        raise doc.error(path, str(error), hint="one IP address, as in 192.0.2.1") from error


def _check_security(doc: _Document, config: Config) -> None:
    security = config.security
    if security.signalling == "plain" and security.media == "srtp-sdes":
        raise doc.error(
            ("security", "media"),
            "srtp-sdes sends its keys in SIP, which security.signalling leaves in clear",
            hint="media: dtls-srtp or plain, or signalling: tls",
        )
    freeswitch = [name for name, n in config.nodes.items() if n.kind is Kind.FREESWITCH]
    if freeswitch and security.media == "dtls-srtp":
        raise doc.error(
            ("security", "media"),
            f"dtls-srtp cannot be made mandatory on FreeSWITCH ({freeswitch[0]}): it takes "
            "a fingerprint in an offer of RTP/AVP for encryption, and tells nothing to attest",
            hint="media: srtp-sdes; dtls-srtp is for fleets of Asterisk",
        )
    bridges = any(node.edge for node in config.nodes.values())
    if security.plain_peers and security.media == "srtp-sdes" and not bridges:
        raise doc.error(
            ("security", "plain_peers"),
            "they need a PBX that takes their media in clear and makes SRTP of it",
            hint="set edge: true at a node; a Kamailio only passes media through",
        )
    for i, peer in enumerate(security.plain_peers):
        path = ("security", "plain_peers", str(i), "address")
        try:
            ipaddress.ip_address(peer.address)
        except ValueError as error:
            raise doc.error(path, str(error), hint="one IP address, as in 192.0.2.7") from error
    for section, members in (("nodes", config.nodes), ("edges", config.edges)):
        for name, member in members.items():
            _check_dns_names(doc, member.names, (section, name, "names"))
    for name, node in config.nodes.items():
        _check_event_socket(doc, node, security.control == "tls", ("nodes", name, "event_socket"))


def _check_redis(doc: _Document, config: Config) -> None:
    if "redis" in config.nodes or "redis" in config.edges:
        section = "nodes" if "redis" in config.nodes else "edges"
        raise doc.error((section, "redis"), "is the name of the server", hint="rename it")
    if config.redis.url is not None and (fault := redis_fault(config.redis.url)):
        hint = "as in redis://192.0.2.1:6379/0; a password goes into redis.password_file"
        raise doc.error(("redis", "url"), fault, hint=hint)
    if config.redis.users and config.redis.url is None:
        raise doc.error(
            ("redis", "users"),
            "the private redis-server has a socket for our user alone, and no users",
            hint="remove users, or set redis.url",
        )
    if config.redis.users and config.redis.password_file:
        raise doc.error(("redis", "users"), "stands beside password_file", hint="one of the two")
    for name, edge in config.edges.items():
        _address(doc, edge.redis, ("edges", name, "redis"))
    if config.redis.sentinels:
        _check_sentinels(doc, config)


def _check_sentinels(doc: _Document, config: Config) -> None:
    where = ("redis", "sentinels")
    for i, address in enumerate(config.redis.sentinels):
        _address(doc, address, (*where, str(i)))
    url = config.redis.url or ""
    if not url.startswith(("redis://", "rediss://")):
        raise doc.error(
            where,
            "need a url with the primary's name as its host",
            hint="as in url: rediss://pbxctl/0",
        )
    for i, address in enumerate(config.redis.servers):
        _address(doc, address, ("redis", "servers", str(i)))
    if not config.redis.servers:
        raise doc.error(
            where,
            "are there, but not whom they choose among",
            hint="name all servers, as in servers: [192.0.2.11:6379, 192.0.2.12:6379]",
        )


def _check_dns_names(doc: _Document, names: tuple[str, ...], path: tuple[str, ...]) -> None:
    for i, dns in enumerate(names):
        if not _DNS_NAME.match(dns):
            raise doc.error((*path, str(i)), f"{dns!r} is no DNS name", hint="as in pbx1.example")


def _check_event_socket(doc: _Document, node: NodeConfig, tls: bool, path: tuple[str, ...]) -> None:
    _address(doc, node.event_socket, path)
    host = split_address(node.event_socket)[0]
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise doc.error(path, f"{host} is not loopback", hint="stunnel listens on `control`")
    if tls and node.kind is Kind.FREESWITCH and node.control == node.event_socket:
        raise doc.error(
            path,
            f"{node.control} is `control` too, where stunnel listens",
            hint="give `control` another port, as 8022, or set security.control to plain",
        )


def _check_networks(doc: _Document, networks: tuple[str, ...], path: tuple[str, ...]) -> None:
    for i, network in enumerate(networks):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise doc.error((*path, str(i)), str(error), hint="as in 192.0.2.0/24") from error


def _check_recordings(doc: _Document, config: Config) -> None:
    if config.recordings is None:
        return
    if not config.takes_recordings:
        raise doc.error(
            ("recordings",),
            "there is no vault to take them, and nothing is recorded without one",
            hint="write a vault section, or name its host:port as recordings.vault",
        )
    _address(doc, config.takes_recordings, ("recordings", "vault"))
    names: set[str] = set()
    for i, rule in enumerate(config.recordings.rules):
        if rule.name in names:
            raise doc.error(("recordings", "rules", str(i), "name"), f"{rule.name} is twice here")
        names.add(rule.name)


def _check_numbers(doc: _Document, config: Config) -> None:
    prefixes: set[str] = set()
    for i, number in enumerate(config.numbers):
        if number.prefix in prefixes:
            raise doc.error(("numbers", str(i), "prefix"), f"{number.prefix} stands here twice")
        prefixes.add(number.prefix)
        for region in number.regions:
            _known_region(doc, config, region, ("numbers", str(i), "regions"))
