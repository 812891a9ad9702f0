"""Times as people write and read them."""

from __future__ import annotations

import datetime as dt
import re
import time

from controller.errors import UsageError

_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PLACE = re.compile(r"(?:(?:(\d{1,3}):)?(\d{1,4}):)?(\d{1,6}(?:\.\d{1,3})?)s?")


def clock(ms: int) -> str:
    """Local time; "-" for 0."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000)) if ms else "-"


def length(ms: int) -> str:
    """As 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(ms / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def moment(text: str, now_s: float) -> int:
    """Milliseconds since 1970 of an ISO 8601 time, local unless it says otherwise, or of "2h" ago.

    Raises UsageError.
    """
    if ago := _AGO.fullmatch(text):
        return round((now_s - float(ago[1]) * _UNIT_S[ago[2]]) * 1000)
    try:
        return round(dt.datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is no time", hint="as in 2026-11-23, 2026-11-23T14:30 or 2h (ago)"
        ) from error


def place(text: str) -> int:
    """Milliseconds from a recording's start: "90", "90s", "1:30", "1:02:03.5". UsageError."""
    match = _PLACE.fullmatch(text)
    if not match:
        raise UsageError(f"{text!r} is no place in a recording", hint="as in 90, 1:30 or 1:02:03")
    return round((int(match[1] or 0) * 3600 + int(match[2] or 0) * 60 + float(match[3])) * 1000)
