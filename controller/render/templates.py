"""Fills the templates of dialplans/.

A value is put in only if it has none of the characters that mean something in any of the syntaxes
there (Asterisk's and Kamailio's files, XML, Lua, FreeSWITCH's variables): it is refused, not
escaped, for the five syntaxes escape differently and none of our values needs the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2

from controller import resources
from controller.errors import UsageError

# Not here, on purpose: white space and control characters, quotes, \ $ % & < > ; , # | ( )
_PLAIN = re.compile(r"[A-Za-z0-9._:/@+*~=^!\[\]{}-]*")


@dataclass(frozen=True)
class Secret:
    """A password on its way into a template; never shown in an error."""

    text: str

    def __repr__(self) -> str:
        return "Secret(…)"


@dataclass(frozen=True)
class Label:
    """Text that its maker has reduced to what is harmless everywhere: put in as it is."""

    text: str


def plain(value: object) -> str:
    """`value` as text that no syntax of ours reads as anything but itself, or UsageError."""
    if isinstance(value, jinja2.Undefined):
        return str(value)  # StrictUndefined: raises, with the name that is missing
    if isinstance(value, Label):
        return value.text
    text = value.text if isinstance(value, Secret) else str(value)
    if _PLAIN.fullmatch(text):
        return text
    shown = "a password" if isinstance(value, Secret) else repr(text)
    raise UsageError(
        f"{shown} cannot be written into a PBX's config",
        hint="letters, digits and . _ : / @ + * ~ = ^ ! [ ] { } - are allowed, spaces are not",
    )


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(  # noqa: S701 - no HTML; `plain` checks each value
        loader=jinja2.FileSystemLoader(resources.folder("dialplans")),
        undefined=jinja2.StrictUndefined,
        finalize=plain,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["raw"] = Label  # for a template's own text alone
    return made


def fill(template: str, values: dict[str, Any]) -> str:
    """The text of a template such as "kamailio/kamailio.cfg.j2"."""
    return _environment().get_template(template).render(values)
