"""Lab programs that run on what `pbxctl render` writes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from controller.config import Config, split_address
from controller.pki import contexts
from controller.pki.wanted import PROBE
from controller.render.files import folder_of, render
from controller.render.write import write
from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.services import Program
from tests.lab.sip import answers_options, answers_options_tls

#: files of the lab that yield to rendered ones
STOCK = ("pjsip.conf", "extensions.conf", "queues.conf", "rtp.conf")


def put_rendered(
    config: Config, node: Asterisk | FreeSwitch, appended: Mapping[str, str] | None = None
) -> None:
    """The node's rendered files in place of the lab's own; it runs on them from now on.

    appended: the operator's own part, file name to text at its end. Of an Asterisk, the lab's AMI
    user stays beside ours: the config must name another one for the node. Of a FreeSWITCH nothing
    stays.
    """
    folder = put_files(config, node)
    for name, text in (appended or {}).items():
        with (folder / name).open("a") as file:
            file.write(text)
    node.restart()


def put_files(config: Config, node: Asterisk | FreeSwitch) -> Path:
    """`put_rendered` without the restart, for who changes the operator's files first; the folder
    that they are in."""
    if config.security.signalling == "tls":
        node.answers_sip = asks_by_tls(config, config.nodes[node.name].sip)
    if isinstance(node, FreeSwitch):
        conf = node.folder / "conf"
        (conf / "freeswitch.xml").unlink(missing_ok=True)
        write(render(config, node.name, conf))
        return conf
    etc = node.folder / "etc"
    for name in STOCK:
        (etc / name).unlink(missing_ok=True)
    # Asterisk sees its files inside its chroot.
    write(replace(render(config, node.name, Path(node.settings.home / "etc")), folder=etc))
    manager = etc / "manager.conf"
    if "pbxctl-manager.conf" not in manager.read_text():
        with manager.open("a") as file:
            file.write("#include pbxctl-manager.conf\n")
    return etc


def asks_by_tls(config: Config, sip: str) -> Callable[[], bool]:
    """A look at host:port as the driver takes it, with its certificate."""
    host, port = split_address(sip)
    probe = contexts.client(config, PROBE, authority="sip").context
    return lambda: answers_options_tls(host, port, probe)


def start_kamailio(lab: Lab, config: Config, name: str) -> Program:
    """The edge `name` of the config, on its rendered files: the lab root's Kamailio where it speaks
    TLS, which Debian 12's cannot bear (docs/operations.md); else the machine's own."""
    write(render(config, name))
    sip, program = config.edges[name].sip, ["kamailio"]
    ready: Callable[[], bool] = partial(answers_options, *split_address(sip))
    if config.security.signalling == "tls":
        program = ["chroot", str(lab.run.root), "kamailio"]
        ready = asks_by_tls(config, sip)
    return lab.program(
        name,
        [*program, "-f", folder_of(config, name) / "kamailio.cfg", "-DD", "-E",
         "-m", "64", "-M", "8", "-P", lab.run.folder / f"{name}.pid"],
        ready=ready,
    )  # fmt: skip


def start_stunnel(lab: Lab, name: str, folder: Path, listens: str) -> Program:
    """On the rendered file of a FreeSWITCH or an edge; listens: host:port of its near end."""
    conf = folder / "pbxctl-stunnel.conf"
    return lab.program(f"{name}-stunnel", ["stunnel", conf], ready=lambda: takes(listens))


def start_redis(lab: Lab, config: Config) -> Program:
    """The fleet's Redis, on its rendered files."""
    made = render(config, "redis")
    write(made)
    address = str(urlsplit(config.redis.url or "").netloc)
    return lab.program(
        "redis",
        ["redis-server", made.folder / "pbxctl-redis.conf", "--bind", address.split(":")[0],
         "--dir", made.folder, "--save", ""],
        ready=lambda: takes(address),
    )  # fmt: skip


def takes(address: str) -> bool:
    """Whether somebody listens on host:port."""
    with contextlib.suppress(OSError):
        socket.create_connection(split_address(address), 0.3).close()
        return True
    return False


def start_proxy(lab: Lab, config: Config, edge: str) -> Program:
    """The edge's HAProxy to the primary among several Redis servers."""
    file = folder_of(config, edge) / "pbxctl-haproxy.cfg"
    address = config.edges[edge].redis
    return lab.program("proxy", ["haproxy", "-db", "-f", file], ready=lambda: takes(address))
