"""pbxctl init: a first config file, the secrets it names and the certificates, never over what is
there."""

from __future__ import annotations

import datetime as dt
import os
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from controller.cli import options, output
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.config import Config, split_address
from controller.config_file import parse
from controller.errors import ConfigError, PbxctlError, UsageError
from controller.fleet.acl import USERS
from controller.pki.store import renew_due

#: those of TLS: AMI's own, and stunnel's before the event socket
CONTROL_PORT = {"asterisk": 5039, "freeswitch": 8022}
SIP_PORT = 5061
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

HEAD = """\
# The fleet that pbxctl runs. Check this file and all that it names with `pbxctl doctor`.
# Paths are relative to this file. Passwords never stand here: password_file names a file that
# only its owner can read.
fleet: {fleet}

# Callers of a region stay in it while it has room; spill_to says where they go after that.
regions:
"""
NODES = """
# sip: where calls are sent, by TLS; phones register at the next port. control: AMI (Asterisk), or
# stunnel before the event socket (FreeSWITCH).
# calls_max: calls that placement gives it at most; without it the PBX's own limit counts.
nodes:
"""
TAIL = """
# What numbers are for; the longest prefix wins. Other numbers are phones.
numbers:
  - {prefix: "400", service: queue}
  - {prefix: "9196", service: echo}

# Everything is encrypted and certificates stand in pki/. A machine that cannot is named here:
# security:
#   plain_peers: [{address: 192.0.2.7, reason: "gateway of the lift phones, no TLS"}]

# Calls are sent away from a region once its best node's load is above this.
placement:
  spill_above: 0.85

# Without a url, `pbxctl up` keeps a private redis-server in state_dir.
"""


REDIS = "# redis: {url: rediss://…, users: secrets/redis}\n"


@dataclass(frozen=True)
class First:
    """A node as init knows it."""

    name: str
    kind: str
    host: str
    region: str


DEMO = tuple(
    First(name, "asterisk", host, region)
    for name, host, region in (
        ("a1", "127.0.2.1", "east"),
        ("a2", "127.0.2.2", "east"),
        ("a3", "127.0.2.3", "west"),
    )
)


def parse_node(text: str) -> First:
    """NAME=KIND:HOST[@REGION], as in pbx1=asterisk:192.0.2.10@east."""
    match = re.fullmatch(r"([^=]+)=(asterisk|freeswitch):([^@\s]+?)(?:@(.+))?", text)
    if not match:
        raise UsageError(f"{text!r} is no node", hint="as in --node pbx1=asterisk:192.0.2.10@east")
    name, kind, host, region = match[1], match[2], match[3], match[4] or "main"
    for what in (name, region):
        _check_name(what)
    return First(name, kind, _check_host(host), region)


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name", hint="a-z, 0-9 and '-', at most 63 characters")
    return name


def _check_host(host: str) -> str:
    try:
        split_address(f"{host}:{SIP_PORT}")
    except ValueError as error:
        raise UsageError(f"{host!r} is no address", hint="an IPv4, [IPv6] or host name") from error
    return host


def config_text(fleet: str, nodes: tuple[First, ...], redis_url: str, state_dir: str) -> str:
    """The commented file. Its parts were checked: names, addresses; the rest is quoted."""
    regions = list(dict.fromkeys(node.region for node in nodes))
    text = HEAD.format(fleet=_check_name(fleet))
    for region in regions:
        others = ", ".join(r for r in regions if r != region)
        text += f"  {region}: {{spill_to: [{others}]}}\n"
    text += NODES
    for node in nodes:
        text += (
            f"  {node.name}:\n    kind: {node.kind}\n    region: {node.region}\n"
            f'    sip: "{node.host}:{SIP_PORT}"\n'
            f'    control: "{node.host}:{CONTROL_PORT[node.kind]}"\n'
            f"    password_file: secrets/{node.name}\n    calls_max: 100\n"
        )
    text += TAIL
    users = ", users: secrets/redis" if redis_url.startswith("rediss://") else ""
    text += f'redis: {{url: "{redis_url}"{users}}}\n' if redis_url else REDIS
    return text + f"\n# Sockets, the private Redis and what `pbxctl render` writes.\n{state_dir}\n"


@options.examples(
    "pbxctl init --fleet office --node pbx1=asterisk:192.0.2.10@east",
    "pbxctl init --node a=asterisk:192.0.2.10@east --node f=freeswitch:192.0.2.11@west",
    "pbxctl init --demo --into demo",
)
@click.command()
@options.plain
@click.option("--fleet", metavar="NAME", help="The fleet's name.")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="NAME=KIND:HOST[@REGION]",
    help="A PBX; KIND is asterisk or freeswitch. May be repeated.",
)
@click.option("--redis", "redis_url", default="", metavar="URL", help="A Redis of your own.")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="FOLDER",
    help="Where pbxctl.yaml and secrets/ go (default: here).",
)
@click.option("--demo", is_flag=True, help="Three Asterisk nodes on loopback in two regions.")
@click.pass_obj
def init(
    session: Session,
    fleet: str | None,
    nodes: tuple[str, ...],
    redis_url: str,
    into: Path,
    demo: bool,
) -> None:
    """Write a commented config file and secrets; asks for what no option says."""
    file = into / "pbxctl.yaml"
    if file.exists():
        raise UsageError(
            f"{file} is there already and stays as it is", hint="edit it, or give --into FOLDER"
        )
    if demo:
        chosen, fleet = DEMO, fleet or "demo"
    else:
        if not nodes and not sys.stdin.isatty():
            raise UsageError(
                "there is nobody to ask for the nodes",
                hint="give --node NAME=KIND:HOST@REGION, or --demo",
            )
        fleet = fleet or (_ask("Name of the fleet", _check_name, "main") if not nodes else "main")
        chosen = tuple(map(parse_node, nodes)) or _ask_nodes()
    if '"' in redis_url or "\n" in redis_url or "\\" in redis_url:
        raise UsageError("the Redis URL has a quote in it", hint="percent-encode it as %22")
    with waiting(session, "making keys and certificates"):
        write(file, config_text(fleet, chosen, redis_url, "state_dir: state"), chosen)
    output.say(
        session,
        [
            f"{file}, {into / 'secrets'} and {into / 'pki'} are written.",
            f"Next: put each node's password in its secret, or let `pbxctl --config {file} render "
            f"{chosen[0].name}` write a config with the one that was made.",
            f"Then: pbxctl --config {file} doctor",
        ],
    )


def _ask_nodes() -> tuple[First, ...]:
    found: list[First] = []

    def name_or_end(text: str) -> str:
        if any(node.name == text for node in found):
            raise UsageError(f"there is a node {text!r} already", hint="give each its own name")
        return _check_name(text) if text or not found else ""

    while True:
        more = " (empty: no more)" if found else ""
        name = _ask(f"Name of a node{more}", name_or_end, "" if found else "pbx1")
        if not name:
            return tuple(found)
        kind = click.prompt("Its kind", type=click.Choice(list(CONTROL_PORT)))
        host = _ask("Its address", _check_host)
        region = _ask("Its region", _check_name, found[-1].region if found else "main")
        found.append(First(name, kind, host, region))


def _ask(question: str, check: Callable[[str], str], default: str | None = None) -> str:
    """Asks until the answer passes `check`."""

    def checked(text: str) -> str:
        try:
            return check(text)
        except UsageError as error:
            raise click.UsageError(f"{error.message} ({error.hint})") from error

    answer: str = click.prompt(question, default=default, value_proc=checked)
    return answer


def _checked(file: Path, text: str, nodes: tuple[First, ...]) -> Config:
    """The config that the text will be. UsageError about the options: the file is not there yet."""
    names = [node.name for node in nodes]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"there are two nodes {name!r}", hint="give each its own name")
    try:
        return parse(text, str(file), secrets_there=False)
    except ConfigError as error:
        what = error.message.removeprefix(f"{error.file}:{error.line}: ")
        hint = error.hint or "give other options: pbxctl init --help"
        raise UsageError(what, hint=hint) from error


def write(file: Path, text: str, nodes: tuple[First, ...]) -> None:
    """Secrets first, random and 0600, then certificates, and the file once all is good; nothing
    of them when the file would be a wrong one."""
    config = _checked(file, text, nodes)
    folder = file.parent / "secrets"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for node in nodes:
            _create(folder / node.name, secrets.token_urlsafe(24) + "\n", 0o600)
        if config.redis.users:
            users = config.path(config.redis.users)
            users.mkdir(exist_ok=True, mode=0o700)
            for role in USERS:
                _create(users / role, secrets.token_urlsafe(24) + "\n", 0o600)
        renew_due(config, dt.datetime.now(dt.UTC))
        if not _create(file, text, 0o644):
            raise UsageError(f"{file} is there already and stays as it is", hint="edit it")
    except OSError as error:
        raise PbxctlError(
            f"{error.filename or file} cannot be written: {error.strerror}",
            hint="give --into a folder that is yours",
        ) from error


def _create(path: Path, text: str, mode: int) -> bool:
    """Makes a new file; False when there is one, which stays as it is."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    return True
