"""The whole config of one node or edge, as text: what `pbxctl render NAME` writes.

`render` reads the secrets; the rest is a pure function of the config. Files that hold a secret
are for their owner alone. Files marked `keep` are written once and are the operator's after that;
all others are ours and are named pbxctl-*, so that an existing PBX takes them in by includes.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller import resources
from controller.config import Config, PlainPeer, read_secret, split_address
from controller.config_recordings import RecordingsConfig
from controller.errors import UsageError
from controller.fleet.keys import prefix
from controller.model import Kind
from controller.pbx.recorded_files import SIDES
from controller.render.certificates import tls_files
from controller.render.file import File
from controller.render.phones import SRTP_MANDATORY, phones_file, phones_path
from controller.render.recordings import mount_unit
from controller.render.redis import (
    edge_secret,
    haproxy_values,
    redis_files,
    redis_values,
    stunnel_values,
)
from controller.render.templates import Secret, fill

#: what an edge's dialplan waits for its agent beyond the agent's own deadline
_AGENT_GRACE_S = 0.1


@dataclass(frozen=True)
class Rendered:
    """files: path below `folder` to content. folder: where they go."""

    name: str
    folder: Path
    files: dict[str, File] = field(default_factory=dict)


def folder_of(config: Config, name: str) -> Path:
    """Where the files of a node or edge go unless the operator says otherwise."""
    node = config.nodes.get(name)
    if node and node.folder:
        return config.path(node.folder)
    return config.state_path / "rendered" / name


def render(
    config: Config, name: str, folder: Path | None = None, at: Path | None = None
) -> Rendered:
    """Every file for the node or edge `name`, to go into `folder`.

    at: where the texts expect to stand, when they are copied from `folder` to another machine.
    Raises UsageError for an unknown name or a value that no PBX file can hold, ConfigError when a
    secret cannot be read.
    """
    folder = (folder or folder_of(config, name)).absolute()
    at = (at or folder).absolute()
    if name in config.edges:
        secret = edge_secret(config)
        made = edge_files(config, name, secret, at)
        return Rendered(name, folder, made | tls_files(config, name))
    if name in config.nodes:
        node = config.nodes[name]
        secret = Secret(read_secret(config.path(node.password_file)))
        files = asterisk_files if node.kind is Kind.ASTERISK else freeswitch_files
        made = files(config, name, secret, at)
        if config.recordings:
            made |= mount_unit(name, config.recordings)
        return Rendered(name, folder, made | tls_files(config, name))
    if name == "redis":
        return Rendered(name, folder, redis_files(config, at))
    known = ", ".join([*config.nodes, *config.edges, "redis"])
    raise UsageError(f"there is no node or edge {name!r}", hint=f"known: {known}")


def edge_files(config: Config, name: str, password: Secret | None, folder: Path) -> dict[str, File]:
    edge = config.edges[name]
    values = {
        "name": name,
        "region": edge.region,
        "listen": edge.sip,
        "host": _host(edge.sip),
        "nat_listen": edge.nat_sip,
        "outside": edge.outside,
        "folder": folder,
        "fleet_key": prefix(config.fleet),
        "reservation_s": config.placement.reservation_s,
        "retry_after_s": config.placement.retry_after_s,
        "redis": redis_values(config, edge, password),
        "node_addresses": sorted({_address(n.sip) for n in config.nodes.values()}),
        "peers": [ipaddress.ip_network(network) for network in edge.peers],
        "peers_ca": bool(config.security.peers_ca),
        **_security(config, edge.sip),
        "plain_peers": _plain_peers(config),
    }
    sips = {n: node.sip for n, node in config.nodes.items() if not node.standby}
    files = {
        "kamailio.cfg": File(fill("kamailio/kamailio.cfg.j2", values)),
        "pbxctl-redis.cfg": File(fill("kamailio/pbxctl-redis.cfg.j2", values), 0o600),
        "pbxctl-address.list": File(fill("kamailio/pbxctl-address.list.j2", values)),
        "pbxctl-dispatcher.list": File(dispatcher_list(config, edge.region, sips), keep=True),
    }
    if config.redis.sentinels:
        way = values | haproxy_values(config, edge)
        files["pbxctl-haproxy.cfg"] = File(fill("kamailio/pbxctl-haproxy.cfg.j2", way), 0o600)
    elif config.redis.speaks_tls:
        way = values | stunnel_values(config, edge)
        files["pbxctl-stunnel.conf"] = File(fill("kamailio/pbxctl-stunnel.conf.j2", way))
    if values["tls"]:
        files["pbxctl-tls.cfg"] = File(fill("kamailio/pbxctl-tls.cfg.j2", values))
    return files


def dispatcher_list(config: Config, region: str, sips: dict[str, str]) -> str:
    """Kamailio's list for the time without Redis, of `sips` (node name to host:port)."""
    near = [sip for name, sip in sips.items() if config.nodes[name].region == region]
    far = [sip for name, sip in sips.items() if config.nodes[name].region != region]
    values = {"near": near, "far": far, "tls": config.security.signalling == "tls"}
    return fill("kamailio/pbxctl-dispatcher.list.j2", values)


def asterisk_files(config: Config, name: str, password: Secret, folder: Path) -> dict[str, File]:
    values = _node_values(config, name, password, folder)
    ours = ("pbxctl-pjsip.conf", "pbxctl-extensions.conf")
    yours = (
        "pbxctl-services.conf",
        "pbxctl-queues.conf",
        "pjsip.conf",
        "extensions.conf",
        "queues.conf",
        "manager.conf",
        "rtp.conf",
    )
    files = {path: File(fill(f"asterisk/{path}.j2", values)) for path in ours}
    files |= {path: File(fill(f"asterisk/{path}.j2", values), keep=True) for path in yours}
    manager = "pbxctl-manager.conf"
    files[manager] = File(fill(f"asterisk/{manager}.j2", values), 0o600)
    return files | _no_phones(config, name)


def freeswitch_files(config: Config, name: str, password: Secret, folder: Path) -> dict[str, File]:
    values = _node_values(config, name, password, folder)
    ours = ("pbxctl-profile.xml", "pbxctl-dialplan.xml")
    yours = ("pbxctl-services.xml", "freeswitch.xml")
    files = {path: File(fill(f"freeswitch/{path}.j2", values)) for path in ours}
    files |= {path: File(fill(f"freeswitch/{path}.j2", values), keep=True) for path in yours}
    socket = "pbxctl-event_socket.conf.xml"
    files[socket] = File(fill(f"freeswitch/{socket}.j2", values), 0o600)
    if config.security.control == "tls":
        files["pbxctl-stunnel.conf"] = File(fill("freeswitch/pbxctl-stunnel.conf.j2", values))
    scripts = resources.folder("lua") / "freeswitch"
    for script in ("route", "record", "recorded"):
        files[f"pbxctl-{script}.lua"] = File((scripts / f"{script}.lua").read_text("utf-8"))
    return files | _no_phones(config, name)


def _no_phones(config: Config, name: str) -> dict[str, File]:
    """The file of phones that the agent will fill: the PBX may start before it."""
    text = phones_file(config, name, [], {})
    return {str(phones_path(config, name)): File(text, 0o600, keep=True)}


def _node_values(config: Config, name: str, password: Secret, folder: Path) -> dict[str, Any]:
    node = config.nodes[name]
    host, port = split_address(node.control)
    agent = config.agent
    return {
        "name": name,
        "region": node.region,
        "edge": node.edge,
        "folder": folder,
        "realm": config.realm,
        "sip": node.sip,
        "sip_host": _host(node.sip),
        "sip_port": split_address(node.sip)[1],
        "media_address": node.media,
        "control_host": host,
        "control_port": port,
        "control_from": [ipaddress.ip_network(network) for network in node.control_from],
        "user": node.user,
        "password": password,
        "trunk_addresses": _trunk_addresses(config, name),
        "plain_addresses": _plain_addresses(config, name),
        "others": [{"name": n, "sip": o.sip} for n, o in config.nodes.items() if n != name],
        "ranges": config.numbers,
        "ranges_longest_first": sorted(config.numbers, key=lambda r: -len(r.prefix)),
        "agent": f"http://{agent.host}:{agent.port}",
        "wait_s": round(agent.deadline_ms / 1000 + _AGENT_GRACE_S, 3),
        # two legs a call, and room for those that the fleet does not place
        "sessions_max": (node.calls_max or 500) * 2 + 20,
        "control_tls": config.security.control == "tls",
        "event_socket_host": split_address(node.event_socket)[0],
        "event_socket_port": split_address(node.event_socket)[1],
        "phones_sip": node.phones_sip,
        "phones_tls12": config.phones.tls_min == "1.2",
        "phones_port": split_address(node.phones_sip)[1],
        **_recordings(config, name),
        **_security(config, node.sip),
    }


def _recordings(config: Config, name: str) -> dict[str, Any]:
    """record: whether dialplans ask the agent. What a person starts needs no question."""
    ours = config.recordings or RecordingsConfig()
    rate_hz = ours.rate_on(config.nodes[name].kind)
    left, right = SIDES[rate_hz].names
    return {
        "rate_hz": rate_hz,
        "left": left,
        "right": right,
        "record": bool(ours.rules),
        "recording": config.recordings is not None,
        "recordings": f"{ours.folder}/{name}",
        "unable": ours.unable,
    }


def _security(config: Config, sip: str) -> dict[str, Any]:
    security = config.security
    tls = security.signalling == "tls"
    return {
        "tls": tls,
        "media": security.media,
        "srtp_suites": SRTP_MANDATORY,
        "srtp": security.media != "plain",
        "plain_port": security.plain_port,
        "plain_listen": f"{_host(sip)}:{security.plain_port}",
    }


def _plain_peers(config: Config) -> tuple[PlainPeer, ...]:
    """Those that a Kamailio serves. It passes media and its keys through, so none where the keys
    travel in SIP; and where all is in clear nobody is an exception."""
    security = config.security
    if security.signalling == "plain" or security.media == "srtp-sdes":
        return ()
    return security.plain_peers


def _trunk_addresses(config: Config, name: str) -> list[str]:
    """Who may place calls on the node: every edge, and every other node for its phones."""
    edges = [edge.sip for edge in config.edges.values()]
    nodes = [node.sip for n, node in config.nodes.items() if n != name]
    return sorted({_address(sip) for sip in (*edges, *nodes)})


def _plain_addresses(config: Config, name: str) -> list[str]:
    """Plain peers that may call on the node itself: only one that acts as an edge has callers."""
    if not config.nodes[name].edge or config.security.signalling == "plain":
        return []
    return [peer.address for peer in config.security.plain_peers]


def _host(address: str) -> str:
    """The host part as a SIP URI has it, IPv6 in brackets."""
    return address.rsplit(":", 1)[0]


def _address(address: str) -> str:
    """The host part, which must be an IP address: peers are known by it, names can be forged."""
    host = split_address(address)[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError as error:
        raise UsageError(
            f"{address}: trunk peers are told apart by IP address, not by name",
            hint="write the address into `sip`, as in 192.0.2.10:5060",
        ) from error
