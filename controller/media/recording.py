"""Which calls are recorded: a pure function of the rules and the call, the same on every node."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from controller.config_recordings import RecordingRule, RecordingsConfig

_SHARES = 1 << 64


@dataclass(frozen=True)
class Offered:
    """A call as its dialplan asks for it. call: its SIP Call-ID, for shares of the calls."""

    call: str
    caller: str
    callee: str
    service: str


class Decision(StrEnum):
    """GO_ON: the call goes unrecorded. REFUSE: it goes nowhere on this node."""

    RECORD = "record"
    GO_ON = "go_on"
    REFUSE = "refuse"


def rule_for(rules: Sequence[RecordingRule], call: Offered) -> RecordingRule | None:
    """The first rule that wants the call recorded."""
    return next((rule for rule in rules if _fits(rule, call)), None)


def decide(config: RecordingsConfig, rule: RecordingRule | None, problem: str) -> Decision:
    """problem: why nothing can be recorded here, "" where it can."""
    if rule is None:
        return Decision.GO_ON
    if not problem:
        return Decision.RECORD
    return Decision.REFUSE if config.unable == "refuse" else Decision.GO_ON


def _fits(rule: RecordingRule, call: Offered) -> bool:
    return (
        (rule.prefix is None or call.callee.startswith(rule.prefix))
        and (rule.caller is None or call.caller.startswith(rule.caller))
        and (rule.service is None or call.service == rule.service)
        and (rule.phone is None or rule.phone in (call.caller, call.callee))
        and _drawn(rule, call.call)
    )


def _drawn(rule: RecordingRule, call: str) -> bool:
    """By the call id and not by chance: a call that is asked for again gets the same answer, and
    rules draw apart from each other."""
    digest = hashlib.sha256(f"{rule.name}\0{call}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8]) < rule.share * _SHARES
