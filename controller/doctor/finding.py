"""One finding of the doctor."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """about: config, host, redis, fleet or a node's name. fix: what to do, "" when all is well."""

    about: str
    check: str
    level: Level
    what: str
    fix: str = ""


def ok(about: str, check: str, what: str) -> Finding:
    return Finding(about, check, Level.OK, what)


def warn(about: str, check: str, what: str, fix: str) -> Finding:
    return Finding(about, check, Level.WARN, what, fix)


def fail(about: str, check: str, what: str, fix: str) -> Finding:
    return Finding(about, check, Level.FAIL, what, fix)
