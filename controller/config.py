"""What the config file can say: its shapes, limits and defaults.

config_file.py reads and checks one. Paths in the file are relative to the file. Secrets never
stand in it: `password_file` names a file that only its owner can read.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from controller.config_recordings import RecordingsConfig
from controller.config_shapes import Count, Digits, Name, Share, Strict
from controller.config_vault import VaultConfig
from controller.errors import ConfigError
from controller.model import Kind, Priority

_HOST_PORT = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})$")


class RegionConfig(Strict, frozen=True):
    """spill_to: regions that take this one's callers, in order, once it is pressed."""

    spill_to: tuple[Name, ...] = ()


class NodeConfig(Strict, frozen=True):
    """One PBX. sip, control: host:port; control is AMI (Asterisk) or the event socket.

    calls_max: calls that placement gives it at most; unset, the PBX's own limit counts, and a
    PBX without one is not placed on. weight: its share against other nodes of the region.
    cpus: of the node's host; with it Asterisk's load average is a signal. (FreeSWITCH tells its CPU
    itself, and an agent on the node reports it for either.)
    control_from: networks from which drivers may log in to the PBX. names: DNS names that phones
    and peers dial it by, for its certificate. event_socket: where a FreeSWITCH whose control link
    is TLS listens itself, on loopback; stunnel listens on `control` then.
    phones: host:port of the TLS listener for phones, which have a password instead of a
    certificate; unset, the next port after `sip`. Where signalling is plain, phones use `sip`.
    folder: where the PBX reads its pbxctl-* files, on its own machine; unset, rendered/NODE in
    state_dir. `pbxctl render` and the node's agent write there.
    media: the address that callers by an edge send RTP to, where a NAT stands before an Asterisk
    and brings it on with its port; unset, that of `sip`.
    """

    kind: Kind
    region: Name
    sip: str
    control: str
    password_file: str
    user: str = "pbxctl"
    calls_max: Count | None = None
    channels_max: Count | None = None
    arrivals_max_per_s: Annotated[float, Meta(gt=0, le=100_000)] | None = None
    cpus: Annotated[int, Meta(ge=1, le=4096)] | None = None
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    standby: bool = False
    edge: bool = False
    control_from: tuple[str, ...] = ("127.0.0.0/8",)
    names: tuple[str, ...] = ()
    event_socket: str = "127.0.0.1:8021"
    folder: str | None = None
    phones: str | None = None
    media: str | None = None

    @property
    def phones_sip(self) -> str:
        host, port = self.sip.rsplit(":", 1)
        return self.phones or f"{host}:{int(port) + 1}"


class EdgeConfig(Strict, frozen=True):
    """A Kamailio that calls meet first. sip: where it listens.

    peers: networks of the carriers and PBXs whose calls it takes; it answers nobody else.
    names: DNS names that they dial it by, for its certificate. redis: where stunnel on the edge
    takes its plain connection to a Redis that speaks TLS, which Kamailio does not.
    outside: host:port that they dial where a NAT stands before the edge. It must bring them to the
    next port after `sip`, which is for them alone: what they are told there names `outside`.
    """

    region: Name
    sip: str
    peers: tuple[str, ...] = ("127.0.0.0/8",)
    names: tuple[str, ...] = ()
    redis: str = "127.0.0.1:6380"
    outside: str | None = None

    @property
    def nat_sip(self) -> str:
        """Where the NAT brings callers who dial `outside`."""
        host, port = self.sip.rsplit(":", 1)
        return f"{host}:{int(port) + 1}"


class RangeConfig(Strict, frozen=True):
    """Numbers that begin with `prefix` (the longest wins) and what they are for.

    regions: tried in this order instead of the caller's own region first.
    """

    prefix: Digits
    service: Literal["phone", "queue", "ivr", "echo"] = "phone"
    regions: tuple[Name, ...] = ()
    priority: Priority = Priority.NORMAL


class PlacementConfig(Strict, frozen=True):
    """How placement decides.

    spill_above: load of a region's best node above which the next region is looked at.
    reservation_s: how long a placed call may take to show up on its node.
    silent_after_s: a node silent for longer gets no new call (promise 5 allows 2 s).
    ramp_s: how long a node that came back takes to reach its full share.
    admit: share of a node's limit that calls of each priority may fill.
    """

    spill_above: Share = 0.85
    reservation_s: Annotated[float, Meta(ge=1, le=60)] = 5.0
    silent_after_s: Annotated[float, Meta(ge=0.8, le=2)] = 1.6
    ramp_s: Annotated[float, Meta(ge=0, le=600)] = 30.0
    admit_low: Share = 0.9
    admit_normal: Share = 1.0
    reject_cause: Annotated[int, Meta(ge=400, le=699)] = 503
    retry_after_s: Annotated[int, Meta(ge=0, le=60)] = 4


class PlainPeer(Strict, frozen=True):
    """One machine that may speak SIP and RTP in clear, and why it must."""

    address: str
    reason: Annotated[str, Meta(min_length=8, max_length=200)]


class SecurityConfig(Strict, frozen=True):
    """What is encrypted: everything, unless this says otherwise.

    signalling: `sip` of nodes and edges is TLS with certificates on both sides, or UDP and TCP.
    media: what RTP must be on every trunk and phone. control: AMI and the event socket.
    plain_peers: who may be an exception, by UDP to plain_port; for nobody else it is open.
    peers_ca: PEM file of authorities besides our own whose certificates an edge's peers may show.
    """

    signalling: Literal["tls", "plain"] = "tls"
    media: Literal["srtp-sdes", "dtls-srtp", "plain"] = "srtp-sdes"
    control: Literal["tls", "plain"] = "tls"
    plain_peers: tuple[PlainPeer, ...] = ()
    plain_port: Annotated[int, Meta(ge=1, le=65_535)] = 5060
    peers_ca: str | None = None


class PkiConfig(Strict, frozen=True):
    """folder: the fleet's authorities and certificates; see controller/pki/store.py."""

    folder: str = "pki"


class RedisConfig(Strict, frozen=True):
    """url: redis://, rediss:// or unix://; unset, `pbxctl up` keeps a private redis-server.

    users: folder with one password file for each role; each role then logs in as pbxctl-ROLE,
    which may do its own work and nothing else. Without it all log in by password_file.
    sentinels: host:port of Redis Sentinels; the url's host is then the primary's name with them.
    servers: host:port of the servers behind the Sentinels, for their certificate, and for the proxy
    of an edge.
    """

    url: str | None = None
    sentinels: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    password_file: str | None = None
    users: str | None = None

    @property
    def speaks_tls(self) -> bool:
        return bool(self.url) and str(self.url).startswith("rediss://")


class TlsConfig(Strict, frozen=True):
    cert: str
    key: str
    client_ca: str


class GateConfig(Strict, frozen=True):
    """listen: "unix" for a socket in state_dir, or host:port for TLS besides.

    tls: files of the operator's own instead of those in pki.folder. names: DNS names and addresses
    by which people reach the gate, for its certificate.
    """

    listen: str = "unix"
    tls: TlsConfig | None = None
    names: tuple[str, ...] = ()


class MetricsConfig(Strict, frozen=True):
    """Each role listens on host with its port: first_port + 0 driver, 1 steward, 2 gate, 3 agent,
    4 vault.

    A second process of the same role takes the next free port from first_port + 10 upwards.
    """

    host: str = "127.0.0.1"
    first_port: Annotated[int, Meta(ge=0, le=65_000)] = 9460


Demand = Literal["require", "prefer", "off"]


class MediaConfig(Strict, frozen=True):
    """What is done about a call's media that is not encrypted.

    require: the call is hung up. prefer: it goes on, with an alarm. off: nothing. trunk: between
    edges and nodes; phones: everything else; unset, require unless security.media is plain. peers:
    by name of a phone, PJSIP endpoint or FreeSWITCH profile, * and ? as wildcards, the first that
    fits wins.
    sample_share: of the calls, whose packets the node's agent looks at itself.
    """

    trunk: Demand | None = None
    phones: Demand | None = None
    peers: dict[Annotated[str, Meta(min_length=1, max_length=128)], Demand] = msgspec.field(
        default_factory=dict
    )
    sample_share: Annotated[float, Meta(ge=0, le=1)] = 0.0


class AgentConfig(Strict, frozen=True):
    """host: where each node's agent answers its own dialplan; loopback only.

    fallback_calls_per_node: placements an agent makes at most on one node from its last snapshot
    while Redis is away, per reservation time.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65_535)] = 9450
    deadline_ms: Annotated[int, Meta(ge=20, le=2000)] = 200
    fallback_calls_per_node: Count = 20


class PhonesConfig(Strict, frozen=True):
    """How phones log in.

    realm: what digests are made for; unset, the fleet's name. Another realm makes every password
    invalid. domain: the name that phones find by DNS (`pbxctl phones dns` prints its records);
    unset, a phone's file lists node addresses. register_s: how long a registration lasts, which
    is also how long a phone may take to notice that its node has died. tls_min: the oldest TLS
    that phones may speak; "1.2" is for desk phones that know no other. Trunks have 1.3 always.
    """

    realm: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")] | None = None
    domain: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,252}$")] | None = None
    register_s: Annotated[int, Meta(ge=10, le=7200)] = 60
    tls_min: Literal["1.2", "1.3"] = "1.3"


class RecordsConfig(Strict, frozen=True):
    """url: of PostgreSQL, as postgresql://user@host/base; unset, records.db in state_dir.

    password_file: PostgreSQL's password, which must not stand in the url.
    """

    url: str | None = None
    password_file: str | None = None


class Config(Strict, frozen=True):
    fleet: Name
    nodes: dict[str, NodeConfig]
    regions: dict[str, RegionConfig]
    edges: dict[str, EdgeConfig] = msgspec.field(default_factory=dict)
    numbers: tuple[RangeConfig, ...] = ()
    placement: PlacementConfig = PlacementConfig()
    security: SecurityConfig = SecurityConfig()
    pki: PkiConfig = PkiConfig()
    redis: RedisConfig = RedisConfig()
    gate: GateConfig = GateConfig()
    metrics: MetricsConfig = MetricsConfig()
    agent: AgentConfig = AgentConfig()
    phones: PhonesConfig = PhonesConfig()
    records: RecordsConfig = RecordsConfig()
    media: MediaConfig = MediaConfig()
    vault: VaultConfig | None = None
    recordings: RecordingsConfig | None = None
    state_dir: str = "/var/lib/pbxctl"
    #: where the file was; not a key of the file
    source: str = ""

    def path(self, relative: str) -> Path:
        """A path of the file, against the file's own folder."""
        return Path(self.source).parent / relative

    @property
    def realm(self) -> str:
        return self.phones.realm or self.fleet

    @property
    def state_path(self) -> Path:
        return self.path(self.state_dir)

    @property
    def takes_recordings(self) -> str:
        """host:port of the vault that nodes ship to, "" where none is named."""
        named = self.recordings.vault if self.recordings else None
        return named or (self.vault.ingest if self.vault else "")

    @property
    def vault_path(self) -> Path:
        """The vault's own folder, on the machine of a vault."""
        named = self.vault.folder if self.vault else None
        return self.path(named) if named else self.state_path / "vault"


def split_address(address: str) -> tuple[str, int]:
    """ "host:port" or "[v6]:port" as (host, port); ValueError says what is wrong."""
    match = _HOST_PORT.match(address)
    if not match or not 0 < int(match[2]) < 65_536:
        raise ValueError(f"{address!r} is not host:port")
    return match[1].strip("[]"), int(match[2])


def make_state_dir(config: Config) -> Path:
    """state_dir, made for its owner alone where there is none. ConfigError when it is of no use."""
    path, wrong = config.state_path, ""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        wrong = f"{path} cannot be made: {error.strerror}"
    else:
        if not os.access(path, os.W_OK | os.X_OK):
            wrong = f"{path} cannot be written by this user"
    if wrong:
        raise ConfigError(
            wrong, file=config.source, key="state_dir", hint="name a folder of this user's own"
        )
    return path


def stamp(path: Path) -> tuple[int, int]:
    """Another one after each change of the file; (0, 0) while there is none."""
    try:
        there = path.stat()
    except OSError:
        return (0, 0)
    return (there.st_mtime_ns, there.st_ino)


def read_secret(path: Path) -> str:
    """The first line of a secret file. ConfigError when absent, empty or readable by others."""
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"secret cannot be read: {getattr(error, 'strerror', None) or error}",
            file=str(path),
            hint="write the password into that file, one line, mode 0600",
        ) from error
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError("secret is open to others", file=str(path), hint=f"run: chmod 600 {path}")
    if not text:
        raise ConfigError("secret is empty", file=str(path), hint="write the password into it")
    return text
