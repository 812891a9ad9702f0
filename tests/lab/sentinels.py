"""A primary, two replicas and three Sentinels, all real."""

from __future__ import annotations

from pathlib import Path

from tests.lab.lab import Lab
from tests.lab.services import REDIS_PORT, Program, Redis, ask_redis
from tests.lab.until import until

NAME = "pbxctl"
SENTINEL_PORT = 26379
#: how long the primary may be silent before the Sentinels agree on another
DOWN_AFTER_MS = 1000


# A primary that lost its replicas takes no more words: after a freeze it is not the primary.
_OPTIONS = {
    "repl-diskless-sync-delay": "0",
    "min-replicas-to-write": "1",
    "min-replicas-max-lag": "2",
}


class Sentinels:
    """servers: the first is the primary at the start. settings: `redis:` of the config."""

    def __init__(self, lab: Lab) -> None:
        primary = lab.redis("r1", options=_OPTIONS)
        self.servers = [primary]
        for name in ("r2", "r3"):
            replica = lab.redis(name, options=_OPTIONS)
            replica.ask(f"CONFIG SET replica-announce-ip {replica.address}")
            replica.ask(f"REPLICAOF {primary.address} {REDIS_PORT}")
            self.servers.append(replica)
        primary.ask(f"CONFIG SET replica-announce-ip {primary.address}")
        until(lambda: primary.ask("INFO replication").count("state=online") == 2, 10, "replicas")
        self._programs = [_sentinel(lab, f"s{n}", primary.address) for n in (1, 2, 3)]
        self.addresses = [f"{program.address}:{SENTINEL_PORT}" for program in self._programs]
        self.settings = {
            "url": f"redis://{NAME}/0",
            "sentinels": self.addresses,
            "servers": [f"{server.address}:{REDIS_PORT}" for server in self.servers],
        }
        until(lambda: self._told() == (2, 2), 15, "the Sentinels know each other and the replicas")

    def primary(self) -> Redis:
        """Whom the Sentinels call the primary now."""
        answer = _ask(self._programs[0].address, f"SENTINEL get-master-addr-by-name {NAME}")
        address = answer.split("\r\n")[2]
        return next(server for server in self.servers if server.address == address)

    def _told(self) -> tuple[int, int]:
        lines = _ask(self._programs[0].address, f"SENTINEL master {NAME}").split("\r\n")
        told = dict(zip(lines[2::4], lines[4::4], strict=False))
        return int(told.get("num-slaves", 0)), int(told.get("num-other-sentinels", 0))


def _sentinel(lab: Lab, name: str, primary: str) -> Program:
    address = lab.address()
    conf = lab.run.folder / f"{name}.conf"
    conf.write_text(
        f"bind {address}\nport {SENTINEL_PORT}\ndir {lab.run.folder}\nprotected-mode no\n"
        f"sentinel announce-ip {address}\n"
        f"sentinel monitor {NAME} {primary} {REDIS_PORT} 2\n"
        f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n"
        f"sentinel failover-timeout {NAME} 5000\n"
    )
    argv: list[str | Path] = ["redis-server", conf, "--sentinel"]
    program = lab.program(name, argv, ready=lambda: _answers(address))
    program.address = address
    return program


def _answers(address: str) -> bool:
    try:
        return "PONG" in _ask(address, "PING")
    except OSError:
        return False


def _ask(address: str, command: str) -> str:
    return ask_redis(address, SENTINEL_PORT, command)
