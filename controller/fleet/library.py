"""The function library of lua/redis/: its source, and how it takes another's place in Redis."""

from __future__ import annotations

import redis.asyncio as redis
from redis.exceptions import NoPermissionError

from controller import resources

#: as the first line of lua/redis/ names it
LIBRARY = "pbxctl"


def library() -> bytes:
    """The library's source, the files of lua/redis/ joined in the order of their names."""
    folder = resources.folder("lua") / "redis"
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.lua")))


async def replace_library(client: redis.Redis, prefix: str) -> None:
    """Loads this version's, to which the one before hands its reservations over.

    In one step, lest a call is placed in between. prefix: of the fleet's keys. Raises RedisError.
    """
    code = library().decode()
    pipe = client.pipeline(transaction=True)
    pipe.fcall("handover", 1, prefix)
    pipe.function_load(code, replace=True)
    try:
        handed, loaded = await pipe.execute(raise_on_error=False)
    except NoPermissionError:  # users.acl is of an older version: no transaction
        await client.function_load(code, replace=True)
        return
    if isinstance(loaded, Exception):
        raise loaded
    if isinstance(handed, Exception) and "Function not found" not in str(handed):
        raise handed
