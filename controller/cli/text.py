"""Hostile text made safe for a terminal.

Names of callers and reasons carry what SIP brought. Nothing of it may move the cursor, colour,
hide or turn text around, nor be read as rich markup (which Text objects never are).
"""

from __future__ import annotations

import unicodedata

#: control, format (bidi, zero width), surrogate, private use, unassigned, line and paragraph ends
_ESCAPED = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def plain(value: object) -> str:
    """`value` as text of one line, each character that is not plainly visible as \\x1b or so."""
    return "".join(_visible(c) for c in str(value))


def _visible(char: str) -> str:
    if char.isascii() and char.isprintable():
        return char
    if unicodedata.category(char) in _ESCAPED:
        code = ord(char)
        if code < 0x100:
            return f"\\x{code:02x}"
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return char
