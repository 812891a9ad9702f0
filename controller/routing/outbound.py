"""How a node is told to ring a number: a dial string made of checked digits alone."""

from __future__ import annotations

import re

from controller.errors import UsageError
from controller.model import Kind

#: the dialplan's way out to phones and trunks, and what an answered call runs then
OUT_CONTEXT = "pbxctl-out"
SERVICE_CONTEXT = "pbxctl-services"

_NUMBER = re.compile(r"\+?[0-9]{1,18}")


def number(text: str, what: str) -> str:
    """`text` when it is a phone number; UsageError otherwise. `what` names it in the message."""
    if not _NUMBER.fullmatch(text):
        raise UsageError(
            f"{what} is not a phone number", hint="1 to 18 digits, with a leading + or without"
        )
    return text


def endpoint(kind: Kind, callee: str) -> str:
    """The dial string by which a PBX of this kind rings `callee` through its own dialplan."""
    digits = number(callee, "the number to call")
    if kind is Kind.ASTERISK:
        return f"Local/{digits}@{OUT_CONTEXT}"
    return f"loopback/{digits}/{OUT_CONTEXT}"
