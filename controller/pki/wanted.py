"""Which certificates a config needs, and what stands in each."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from controller.config import Config, EdgeConfig, NodeConfig, split_address

AuthorityName = Literal["sip", "control", "people"]
AUTHORITIES: tuple[AuthorityName, ...] = ("sip", "control", "people")
#: roles that speak to others; those with a server of their own have it in `wanted`
#: with which the driver asks nodes for a sign of life; no node can be called so
PROBE = "driver_probe"
ROLES = ("driver", "steward", "gate", "agent", "vault", "doctor")


@dataclass(frozen=True)
class Wanted:
    """name: common name and file name, unique within its authority. addresses: IPs, DNS names.

    roles: of a person; each is an OU of the subject.
    """

    authority: AuthorityName
    name: str
    addresses: tuple[str, ...] = ()
    server: bool = False
    client: bool = True
    roles: tuple[str, ...] = ()


def control_name(node: str) -> str:
    """The name of a node's certificate for its control link; no role can be called so."""
    return f"node-{node}"


def edge_name(edge: str) -> str:
    """The name of an edge's certificate as a client of Redis."""
    return f"edge-{edge}"


def wanted(config: Config) -> list[Wanted]:
    """Every certificate of the fleet's machines; those of people are issued one by one."""
    found = []
    members: dict[str, NodeConfig | EdgeConfig] = {**config.nodes, **config.edges}
    for name, member in members.items():
        outside = member.outside if isinstance(member, EdgeConfig) else None
        dialled = (_host(outside),) if outside else ()
        names = (_host(member.sip), *dialled, *member.names)
        found.append(Wanted("sip", name, names, server=True))
    found.append(Wanted("sip", PROBE))
    for name, node in config.nodes.items():
        found.append(Wanted("control", control_name(name), (_host(node.control),), True, False))
    gate = () if config.gate.listen == "unix" else (_host(config.gate.listen),)
    servers = {"gate": (*gate, *config.gate.names)}
    if config.vault:
        vault = config.vault
        servers["vault"] = (_host(vault.ingest), _host(vault.listen), *vault.names)
    for role in ROLES:
        addresses = servers.get(role, ())
        found.append(Wanted("control", role, _named(addresses), server=bool(addresses)))
    found += [Wanted("control", edge_name(name)) for name in config.edges]
    redis = urlsplit(config.redis.url or "")
    if redis.hostname:
        names = tuple(_host(a) for a in config.redis.servers) or (redis.hostname,)
        found.append(Wanted("control", "redis", names, server=True, client=False))
    return found


def wanted_by(config: Config, name: str) -> list[Wanted]:
    """What the machine of a node or edge has to show: its own certificates and its agent's."""
    own = {("sip", name), ("control", control_name(name)), ("control", edge_name(name))}
    found = [w for w in wanted(config) if (w.authority, w.name) in own]
    return [*found, Wanted("control", "agent")]


def _host(address: str) -> str:
    return split_address(address)[0]


def _named(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Without "every address", which nobody can dial."""
    return tuple(a for a in addresses if not _is_any(a))


def _is_any(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False
