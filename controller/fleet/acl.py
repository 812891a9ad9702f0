"""Who may do what in Redis: one user a role, with the functions it calls and the keys they touch.

A function runs with the rights of whoever calls it, so a role has the data commands of the library
too; what confines it are the keys. Nobody but the steward loads functions; nobody at all has
CONFIG, KEYS, SCAN, FLUSHALL, EVAL, ACL or SHUTDOWN.

The names of functions are Redis's "first argument" rules: in 7.0 to 8 they work and log a warning.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from controller.fleet.keys import prefix

#: of the library, as lua/redis/ has them; a test keeps the two in step
DATA_COMMANDS = (
    *("get", "set", "setnx", "del", "pexpire", "pttl", "time", "info|server"),
    *("hget", "hset", "hsetnx", "hmget", "hgetall", "hdel", "hkeys", "hvals", "hlen", "hincrby"),
    *("zadd", "zrem", "zrevrange", "zcard", "zremrangebyscore"),
    *("sadd", "srem", "smembers"),
    *("lpush", "rpush", "lpop", "llen", "ltrim", "lrange"),
)
_CONNECTION = ("ping", "hello", "auth", "select", "client|setname")


@dataclass(frozen=True)
class Rights:
    """functions by name; reads, writes: kinds of keys, the part after pbx:{FLEET}: up to the next
    colon; writing a key is reading it too. more: further commands."""

    functions: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


#: what every look at nodes reads
_PICTURE = ("server", "policy", "nodes", "node", "live", "regs")
#: what a placement writes
_PLACING = ("server", "call")

RIGHTS = {
    "driver": Rights(
        functions=(
            *("claim", "release", "register", "beat", "events", "reconcile", "take", "done"),
            *("policy", "attest", "registered", "reregister", "file_read", "lenient", "seen"),
        ),
        reads=(*_PICTURE, "phones", "phonever", "written"),
        writes=(
            *(*_PLACING, "nodes", "node", "live", "stats", "drivers", "lease", "policy", "alarms"),
            *("commands", "command", "reccommands", "reccommand", "running", "result"),
            *("regs", "at", "read", "look", "seen"),
        ),
    ),
    "steward": Rights(
        functions=("lead", "policy", "forget", "nodes", "handover"),
        reads=(*_PICTURE, "phoneack"),
        writes=(
            *("server", "policy", "lease", "nodes", "node", "live", "regs", "at"),
            *("commands", "reccommands", "running", "phoneack", "written", "read"),
        ),
        more=("function|load", "function|list", "multi", "exec"),
    ),
    "gate": Rights(
        functions=(
            *("nodes", "want", "route", "route_dry", "call", "calls", "stats", "command"),
            *("alarms", "registrations", "phone_counts", "record_ask", "lead", "publish"),
        ),
        reads=(
            *(*_PICTURE, "lease", "drivers", "call", "alarms", "at"),
            *("phoneack", "phonever"),
        ),
        writes=(
            *(*_PLACING, "node", "stats", "commands", "command", "result", "recask"),
            *("lease:@phones", "phones", "phonever"),
        ),
        more=("lrem", "zrange"),
    ),
    "agent": Rights(
        functions=(
            *("route", "nodes", "host", "phones", "looks", "looked"),
            *("record_take", "record_told", "record_alarm", "command"),
        ),
        reads=(*_PICTURE, "lease", "at", "phones", "phonever", "read"),
        writes=(
            *(*_PLACING, "node", "stats", "phoneack", "written", "look", "seen", "alarms"),
            *("recask", "result", "reccommands", "reccommand"),
        ),
        more=("lrem",),
    ),
    "edge": Rights(
        functions=("place", "route"),
        reads=(*_PICTURE, "at"),
        writes=_PLACING,
        more=("role",),  # a proxy that was rendered by 0.1 looks for the primary so
    ),
    "doctor": Rights(
        functions=("nodes", "phone_counts"),
        reads=(*_PICTURE, "lease", "drivers", "stats", "phoneack", "phonever"),
        more=("info", "config|get", "function|list", "zrange"),
    ),
    "vault": Rights(),
}
USERS = tuple(RIGHTS)


def user_of(role: str) -> str:
    return f"pbxctl-{role}"


def acl_file(fleet: str, passwords: dict[str, str]) -> str:
    """The users of `passwords` (role to password) as a Redis aclfile; everybody else is shut out.

    The passwords themselves are not in it, only their SHA-256, which Redis compares with: they are
    random and long, so nothing can be guessed from it.
    """
    lines = ["user default off sanitize-payload resetchannels -@all"]
    lines += [_line(fleet, role, passwords[role]) for role in USERS if role in passwords]
    return "\n".join(lines) + "\n"


def _line(fleet: str, role: str, password: str) -> str:
    rights, base = RIGHTS[role], prefix(fleet)
    words = ["user", user_of(role), "on", "resetchannels", "-@all"]
    words += [f"+{command}" for command in (*_CONNECTION, *rights.more)]
    if rights.functions:
        words += [f"+{command}" for command in DATA_COMMANDS]
        words += [f"+fcall|{name}" for name in rights.functions]
        words.append(f"~{base}")  # the key that each function declares; it never exists
    for sign, kinds in (("%R~", set(rights.reads) - set(rights.writes)), ("~", rights.writes)):
        for kind in sorted(set(kinds)):
            words += [f"{sign}{base}:{kind}", f"{sign}{base}:{kind}:*"]
    words.append("#" + hashlib.sha256(password.encode()).hexdigest())
    return " ".join(words)
