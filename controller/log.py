"""Logs of the roles: one line an event on stderr, `level role message`.

Text from outside may hold anything: control characters are escaped, so that nobody writes a line
of ours or plays with a terminal.
"""

from __future__ import annotations

import logging
import os
import sys


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.exc_info:
            return text
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def set_up_logging(role: str) -> None:
    """PBXCTL_LOG sets the level (debug, info, warning); info otherwise."""
    level = os.environ.get("PBXCTL_LOG", "info").upper()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(f"%(asctime)s %(levelname)-7s {role}: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("controller").setLevel(getattr(logging, level, logging.INFO))
