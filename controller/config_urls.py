"""What is wrong with an address of Redis or PostgreSQL, before anything connects to it."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def redis_fault(url: str) -> str:
    """Of redis.url; "" when nothing is."""
    parts = _parts(url)
    if isinstance(parts, str):
        return parts
    if parts.scheme not in ("redis", "rediss", "unix"):
        return "is no redis://, rediss:// or unix:// address"
    if parts.username or parts.password:
        return "holds a user or password"
    if parts.scheme == "unix":
        return "" if parts.path.strip("/") else "names no socket"
    database = parts.path.strip("/")
    if database and not (database.isascii() and database.isdigit()):
        return f"{database!r} is no number of a database"
    return ""


def records_fault(url: str) -> str:
    """Of records.url; "" when nothing is."""
    parts = _parts(url)
    if isinstance(parts, str):
        return parts
    if parts.scheme.split("+")[0] != "postgresql" or parts.password:
        return "is not a PostgreSQL address without a password"
    return ""


def _parts(url: str) -> SplitResult | str:
    """The parts of an address whose port can be one, else what is wrong."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its text repeats a part of the address, which may be of a password
        return "has a host or port that cannot be read"
    return parts
