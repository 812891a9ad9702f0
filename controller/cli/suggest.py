"""The nearest known name to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """As "drain" or "drain or resume"; "" when nothing is near."""
    return " or ".join(difflib.get_close_matches(name, sorted(known), 3, 0.5))
