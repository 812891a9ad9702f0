"""This machine: secrets, the state folder, the ports of our roles."""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path

from controller.config import Config, read_secret
from controller.doctor.finding import Finding, fail, ok, warn
from controller.errors import ConfigError
from controller.metrics import PORT_OF_ROLE

PORT_WAIT_S = 1.0


def check_secret(name: str, path: Path) -> Finding:
    try:
        read_secret(path)
    except ConfigError as error:
        return fail(name, "secret", error.message, error.hint)
    return ok(name, "secret", f"{path} is readable by its owner alone")


def check_state_dir(path: Path, our_uid: int) -> Finding:
    try:
        found = path.stat()
    except FileNotFoundError:
        return warn(
            "host", "state_dir", f"{path} is not there yet", "pbxctl up makes it at its first start"
        )
    except OSError as error:
        why = f"{path}: {error.strerror}"
        return fail("host", "state_dir", why, "run the doctor as the user that runs pbxctl")
    if found.st_uid != our_uid:
        return fail(
            "host",
            "state_dir",
            f"{path} belongs to user {found.st_uid}, we are {our_uid}",
            f"run as that user, or: chown -R {our_uid} {path}",
        )
    if found.st_mode & 0o077:
        mode = f"{found.st_mode & 0o777:o}"
        return fail(
            "host", "state_dir", f"{path} is open to others (mode {mode})", f"chmod 700 {path}"
        )
    return ok("host", "state_dir", f"{path} is ours alone")


def check_redis_server(url: str | None, binary: str | None) -> Finding:
    """The embedded default needs a redis-server to start."""
    if url is not None:
        return ok("host", "redis-server", "the config names a Redis of its own")
    if binary is None:
        return fail(
            "host",
            "redis-server",
            "there is none to start for `pbxctl up`",
            "apt-get install redis-server, or set redis.url",
        )
    return ok("host", "redis-server", f"{binary} is there for `pbxctl up`")


def judge_port(role: str, address: str, bind_error: int | None, ours: bool) -> Finding:
    """bind_error: errno of an attempt to listen there; None when it could be had."""
    check = f"port of {role}"
    if bind_error is None:
        return ok("host", check, f"{address} is free")
    if bind_error == errno.EADDRINUSE:
        if ours:
            return ok("host", check, f"{address} is taken by our own {role}")
        return warn(
            "host",
            check,
            f"{address} is taken by another program",
            "stop that program, or set another port (metrics.first_port, agent.port)",
        )
    return fail(
        "host",
        check,
        f"{address} cannot be listened on: {os.strerror(bind_error)}",
        "use an address of this machine and a port above 1023",
    )


def bind_error(host: str, port: int) -> int | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(1)
        except OSError as error:
            return error.errno
    return None


def answers_with(host: str, port: int, path: str, mark: bytes) -> bool:
    """Whether an HTTP server there answers `path` with `mark` in its body."""
    connection = http.client.HTTPConnection(host, port, timeout=PORT_WAIT_S)
    try:
        connection.request("GET", path)
        return mark in connection.getresponse().read(1 << 20)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def check_ports(config: Config) -> Iterable[Finding]:
    host, first = config.metrics.host, config.metrics.first_port
    for role, offset in PORT_OF_ROLE.items() if first else ():
        port = first + offset
        error = bind_error(host, port)
        mark = b'pbxctl_build_info{python="'
        ours = error == errno.EADDRINUSE and answers_with(host, port, "/metrics", mark)
        yield judge_port(f"{role} metrics", f"{host}:{port}", error, ours)


def check_host(config: Config) -> list[Finding]:
    found = [
        check_secret(name, config.path(node.password_file)) for name, node in config.nodes.items()
    ]
    if config.redis.password_file:
        found.append(check_secret("redis", config.path(config.redis.password_file)))
    found.append(check_state_dir(config.state_path, os.geteuid()))
    found.append(check_redis_server(config.redis.url, shutil.which("redis-server")))
    return [*found, *check_ports(config)]
