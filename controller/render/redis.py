"""Redis as a server of ours, and Kamailio's way to it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from controller.config import Config, EdgeConfig, read_secret, split_address
from controller.errors import UsageError
from controller.fleet.acl import USERS, acl_file, user_of
from controller.pki.store import open_store
from controller.render.certificates import read_pem
from controller.render.file import File
from controller.render.templates import Secret, fill


def redis_files(config: Config, folder: Path) -> dict[str, File]:
    """Users and TLS of the fleet's Redis server. Raises UsageError when it is the private one."""
    if not config.redis.users:
        raise UsageError(
            "the config has no redis.users to render",
            hint="the private redis-server needs none; for your own set redis.url and redis.users",
        )
    secrets = config.path(config.redis.users)
    passwords = {role: read_secret(secrets / role) for role in USERS}
    files = {"users.acl": File(acl_file(config.fleet, passwords), 0o600)}
    url = urlsplit(config.redis.url or "")
    if url.scheme == "rediss":
        values = {
            "folder": folder,
            "port": url.port or 6379,
            "replicas": bool(config.redis.sentinels),
        }
        files["pbxctl-redis.conf"] = File(fill("redis/pbxctl-redis.conf.j2", values))
        store = open_store(config)
        for file, path in {
            "redis.pem": store.certificate("control", "redis"),
            "redis.key": store.key("control", "redis"),
            "control-ca.pem": store.ca("control"),
        }.items():
            files[f"tls/{file}"] = File(read_pem(config, path), 0o600)
    return files


def edge_secret(config: Config) -> Secret | None:
    if config.redis.users:
        return Secret(read_secret(config.path(config.redis.users) / "edge"))
    file = config.redis.password_file
    return Secret(read_secret(config.path(file))) if file else None


def stunnel_values(config: Config, edge: EdgeConfig) -> dict[str, object]:
    """For the template of the edge's stunnel."""
    url = urlsplit(config.redis.url or "")
    return {
        "listen": edge.redis,
        "server": f"{url.hostname}:{url.port or 6379}",
        "server_name": url.hostname,
        "server_is_ip": _is_ip(url.hostname or ""),
    }


def haproxy_values(config: Config, edge: EdgeConfig) -> dict[str, object]:
    """For the template of the edge's proxy, which follows the primary that Sentinels choose."""
    return {
        "listen": edge.redis,
        "servers": config.redis.servers,
        "tls": config.redis.speaks_tls,
    }


def redis_values(config: Config, edge: EdgeConfig, password: Secret | None) -> dict[str, object]:
    """What Kamailio's ndb_redis needs; it knows no TLS, so stunnel brings it to a server with, and
    a proxy to the primary among several."""
    url = urlsplit(config.redis.url or f"unix://{config.state_path / 'redis.sock'}")
    if url.username or url.password:
        raise UsageError("redis.url holds a user or password", hint="use redis.password_file")
    values: dict[str, object] = {
        "unix": "",
        "host": "",
        "port": 6379,
        "db": 0,
        "password": password,
        "user": user_of("edge") if config.redis.users else "",
    }
    if url.scheme == "unix":
        return values | {"unix": url.path}
    if url.scheme not in ("redis", "rediss") or not url.hostname:
        raise UsageError(
            f"Kamailio cannot reach Redis by {url.scheme}://", hint="redis://, rediss:// or unix://"
        )
    try:
        db = int(url.path.strip("/") or 0)
        port = url.port or 6379
    except ValueError as error:
        raise UsageError(f"redis.url: {error}", hint="as in redis://192.0.2.1:6379/0") from error
    if url.scheme == "rediss" or config.redis.sentinels:
        host, port = split_address(edge.redis)
        return values | {"host": host, "port": port, "db": db}
    return values | {"host": url.hostname, "port": port, "db": db}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
