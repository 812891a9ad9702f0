"""What an agent tries again and again: one step after the other, a new problem told once."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

from controller.errors import PbxctlError

RETRY_FIRST_S = 2.0
RETRY_MAX_S = 10.0

_log = logging.getLogger(__name__)


async def keep_in_step(
    what: str, where: Path, step: Callable[[], Awaitable[None]], every_s: float
) -> NoReturn:
    """Runs `step` every `every_s`, later after a problem; ends only when cancelled.

    what, where: for the log, and for an OSError that names no file.
    """
    told, pause_s = "", RETRY_FIRST_S
    while True:
        problem = ""
        try:
            await step()
        except PbxctlError as error:
            problem = error.message
        except OSError as error:
            problem = f"{error.filename or where} cannot be written: {error.strerror}"
        if problem and problem != told:
            _log.warning("%s: %s", what, problem)
        told = problem
        wait_s = max(pause_s, every_s) if problem else every_s
        pause_s = min(2 * pause_s, RETRY_MAX_S) if problem else RETRY_FIRST_S
        await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads agents


def text_of(path: Path) -> str:
    """The file's text, "" for one that cannot be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
