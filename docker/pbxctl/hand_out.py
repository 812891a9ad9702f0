"""Makes what the fleet of docker-compose.yml lacks, and hands each service its own part.

/fleet has everything: passwords, the authorities' keys, every certificate. Nobody but this one
container mounts it, and it has no network. /parts/NAME is a volume of the service NAME.
Repeatable: what is there and fits stays, so running it again is how certificates are renewed.

    hand_out.py [pki …]   first runs that command of pbxctl on /fleet, as in `pki issue alice`

    PBXCTL_METRICS_AT   where each role shows its metrics, as "driver=192.0.2.1 gate=192.0.2.2"
    PBXCTL_RTP          each node's media ports, as "a1=20000-20031 a2=20032-20063"
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from controller.cli.main import run
from controller.config import Config, split_address
from controller.config_file import parse
from controller.config_vault import FileKeys
from controller.errors import PbxctlError
from controller.fleet.acl import USERS
from controller.model import Kind
from controller.pki.store import open_store
from controller.pki.wanted import PROBE, Wanted, control_name, edge_name, wanted
from controller.render.file import File
from controller.render.files import Rendered, render
from controller.render.write import write

FLEET = Path("/fleet")
PARTS = Path("/parts")
GIVEN = Path("/etc/pbxctl/pbxctl.yaml")
ASTERISK = Path(__file__).parents[1] / "asterisk" / "etc"
#: passwords that the config does not name
GRAFANA = "secrets/grafana"


@dataclass(frozen=True)
class Part:
    """What a role gets: passwords by path, keys as (authority, name), authorities it believes.

    all_certificates: those of everybody too, without keys, for who tells how long they last.
    people: with the keys of all persons that certificates were issued to here.
    """

    passwords: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]
    believes: tuple[str, ...] = ("control",)
    all_certificates: bool = False
    people: bool = False


def parts_of(config: Config) -> dict[str, Part]:
    """The parts of pbxctl's own roles: service to part."""
    users = config.redis.users or ""
    nodes = tuple(node.password_file for node in config.nodes.values())
    records = (config.records.password_file,) if config.records.password_file else ()
    parts = {
        "driver": Part(
            (*nodes, f"{users}/driver"), (("control", "driver"), ("sip", PROBE)), ("control", "sip")
        ),
        "steward": Part((f"{users}/steward",), (("control", "steward"),), all_certificates=True),
        "gate": Part(
            (f"{users}/gate", *records), (("control", "gate"),), ("control", "people")
        ),
        "vault": Part(
            (f"{users}/vault", *records, *_vault_passwords(config)),
            (("control", "vault"),),
            ("control", "sip", "people"),
        ),
        # It looks at the nodes the way the driver does, as whom their stunnel takes it.
        "doctor": Part(
            (*nodes, f"{users}/doctor"),
            (("control", "doctor"), ("control", "driver"), ("sip", PROBE)),
            all_certificates=True,
        ),
        "cli": Part((), (), people=True),
    }  # fmt: skip
    for name in (*config.nodes, *config.edges):
        own = control_name(name) if name in config.nodes else edge_name(name)
        keys = (("control", "agent"), ("control", own), ("sip", name))
        parts[f"{name}-agent"] = Part((f"{users}/agent",), keys, ("control", "sip"))
    return parts


def _vault_passwords(config: Config) -> tuple[str, ...]:
    keys = config.vault.keys if config.vault else None
    return (keys.passphrase_file,) if isinstance(keys, FileKeys) else ()


def make_passwords(config: Config) -> None:
    """Random, 0600; one that is there stays."""
    named = [node.password_file for node in config.nodes.values()]
    named += [f"{config.redis.users}/{role}" for role in USERS]
    named += [config.records.password_file or GRAFANA, *_vault_passwords(config), GRAFANA]
    for name in named:
        path = config.path(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            one = File(secrets.token_urlsafe(24) + "\n", 0o600, keep=True)
            write(Rendered("secrets", path.parent, {path.name: one}))


def make_certificates(config: Config) -> None:
    """Those of the config, and PostgreSQL's, which is none of pbxctl's own."""
    asked = wanted(config)
    if host := _postgres(config):
        asked.append(Wanted("control", "postgres", (host,), server=True, client=False))
    for made in open_store(config).renew(asked, dt.datetime.now(dt.UTC)):
        print(f"{made.authority}/{made.name} is made")


def _postgres(config: Config) -> str:
    return (config.records.url or "").partition("@")[2].partition("/")[0].partition(":")[0]


def role_files(config: Config, part: Part, metrics_at: str) -> dict[str, File]:
    """Path below /etc/pbxctl to content: the config with the role's own metrics address, and what
    it names, as far as it is this role's."""
    store = open_store(config)
    document = yaml.safe_load(Path(config.source).read_text("utf-8"))
    document["metrics"] = (document.get("metrics") or {}) | {"host": metrics_at}
    head = "# Handed out by the setup; change docker/pbxctl.yaml and run `docker-compose up -d`.\n"
    files = {"pbxctl.yaml": File(head + yaml.safe_dump(document, sort_keys=False))}
    # The config is refused where a node's password file is not there at all.
    files |= {node.password_file: File("", 0o600) for node in config.nodes.values()}
    for name in part.passwords:
        files[name] = File(config.path(name).read_text("utf-8"), 0o600)
    pem = {f"{authority}/ca.pem" for authority in part.believes}
    pem |= {f"{authority}/{name}.pem" for authority, name in part.keys}
    if part.all_certificates:
        pem |= {str(path.relative_to(store.folder)) for path in store.folder.glob("*/*.pem")}
    if part.people:
        persons = (store.folder / "people").glob("*.key")
        pem |= {f"people/{key.stem}{end}" for key in persons for end in (".pem", ".key")}
        pem -= {"people/ca.key", "people/ca.pem"}
    pem |= {f"{authority}/revoked.crl" for authority in part.believes}
    pem |= {f"{authority}/{name}.key" for authority, name in part.keys}
    for path in sorted(pem, key=lambda p: not p.endswith(".key")):  # a reader takes pairs
        if (store.folder / path).exists():
            mode = 0o600 if path.endswith(".key") else 0o644
            text = (store.folder / path).read_text("ascii")
            files[f"{config.pki.folder}/{path}"] = File(text, mode)
    return files


def pbx_files(config: Config, name: str, rtp: Mapping[str, str]) -> dict[str, File]:
    """A node's folder. Its certificates only at first: later ones its agent brings, and tells the
    PBX of."""
    node = config.nodes[name]
    folder = Path(node.folder or "")
    files = {}
    if node.kind is Kind.ASTERISK:
        files = {path.name: File(path.read_text("utf-8")) for path in sorted(ASTERISK.iterdir())}
        first, _, last = rtp[name].partition("-")
        files["rtp.conf"] = File(
            f"[general]\nrtpstart = {first}\nrtpend = {last}\nstrictrtp = yes\n"
        )
    rendered = render(config, name, folder).files
    return {p: f for p, f in rendered.items() if p not in files} | files


def edge_files(config: Config, name: str) -> dict[str, File]:
    return render(config, name, Path("/etc/kamailio")).files


def other_files(config: Config) -> dict[str, dict[str, File]]:
    """Of services that are none of pbxctl's: service to files."""
    store = open_store(config)
    parts = {
        "redis": render(config, "redis", Path("/etc/redis")).files,
        "grafana": {"admin": File(config.path(GRAFANA).read_text("utf-8").strip(), 0o600)},
    }
    if password := config.records.password_file:
        parts["postgres"] = {
            "secrets/records": File(config.path(password).read_text("utf-8"), 0o600),
            "tls/postgres.key": File(store.key("control", "postgres").read_text(), 0o600),
            "tls/postgres.pem": File(store.certificate("control", "postgres").read_text()),
        }
    return parts


def hand_out(
    config: Config, into: Path, metrics_at: Mapping[str, str], rtp: Mapping[str, str]
) -> None:
    """Writes what differs below into/NAME of every service. The arguments after it: see above."""
    parts = other_files(config)
    for name, part in parts_of(config).items():
        node = config.nodes.get(name.removesuffix("-agent"))
        at = split_address(node.control)[0] if node else metrics_at[name]
        parts[name] = role_files(config, part, at)
    for name in config.nodes:
        parts[name] = _certificates_kept(pbx_files(config, name, rtp))
    for name in config.edges:
        parts[name] = _certificates_kept(edge_files(config, name))
    for name, files in parts.items():
        for path in write(Rendered(name, into / name, files)):
            print(f"{name}: {path}")


def _certificates_kept(files: dict[str, File]) -> dict[str, File]:
    return {p: replace(f, keep=True) if p.startswith("tls/") else f for p, f in files.items()}


def pairs(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split())


def main(command: Sequence[str]) -> int:
    os.umask(0o077)
    if command and (code := run(["--config", str(FLEET / "pbxctl.yaml"), *command])):
        return code
    try:
        text = GIVEN.read_text("utf-8")
        config = parse(text, str(FLEET / "pbxctl.yaml"), secrets_there=False)
        write(Rendered("fleet", FLEET, {"pbxctl.yaml": File(text)}))
        make_passwords(config)
        make_certificates(config)
        at, rtp = pairs(os.environ["PBXCTL_METRICS_AT"]), pairs(os.environ["PBXCTL_RTP"])
        hand_out(config, PARTS, at, rtp)
    except PbxctlError as error:
        print(f"setup: {error.message}\n       {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
