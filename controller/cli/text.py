"""Hostile text made safe for a terminal, and an error as one line for scripts.

Names of callers and reasons carry what SIP brought. Nothing of it may move the cursor, colour,
hide or turn text around, nor be read as rich markup (which Text objects never are).
"""

from __future__ import annotations

import json


def plain(value: object) -> str:
    """`value` as text of one line: what is not plainly visible stands as \\x1b or \\u202e.

    str.isprintable is false for control, format (bidi, zero width), surrogate, private use and
    unassigned characters, and for every separator but the space.
    """
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in str(value))


def _escaped(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def error_json(kind: str, message: str, hint: str, exit_code: int) -> str:
    body = {"kind": kind, "message": message, "hint": hint, "exit_code": exit_code}
    return json.dumps({"error": body}) + "\n"
