"""The `recordings:` section of the config: which calls are recorded, and what may stand in the way.

What becomes of the recordings stands in `vault:`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from controller.config_shapes import Digits, Name, Share, Strict
from controller.model import Kind


class RecordingRule(Strict, frozen=True):
    """Calls of which all that is named here is true. name: goes with the recording.

    prefix: the called number begins with it. caller: the calling number does. service: what the
    number plan has for the called number. phone: calls or is called. share: of those calls.
    retention_days: how long the vault keeps them; unset, vault.retention_days.
    """

    name: Name
    prefix: Digits | None = None
    caller: Digits | None = None
    service: Literal["phone", "queue", "ivr", "echo"] | None = None
    phone: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")] | None = None
    share: Share = 1.0
    retention_days: Annotated[int, Meta(ge=1, le=36_500)] | None = None


class RecordingsConfig(Strict, frozen=True):
    """rules: the first that fits a call counts; none: nothing is recorded by itself.

    folder: where nodes record to, a tmpfs with `noswap` of tmpfs_mb, on each node's machine.
    group: of the PBX, which alone may write there; unset, the agent's own. vault: host:port that
    takes what is sealed; unset, vault.ingest. tenant: whose recordings; unset, the fleet's.
    spool_max_mb: sealed audio that a node keeps on disk while the vault is away.
    unable: what becomes of a call that a rule wants recorded where that cannot be: the call goes
    on, or is refused with 503 and tried on another node.
    noswap: whether that tmpfs must be mounted so; False, for a kernel before Linux 6.4, records
    onto any tmpfs as long as the machine has no swap at all.
    rate_hz: of what is recorded; unset, 16000 on Asterisk and 8000 on FreeSWITCH.
    """

    rules: tuple[RecordingRule, ...] = ()
    folder: Annotated[str, Meta(pattern=r"^/[A-Za-z0-9._/-]{1,100}$")] = "/run/pbxctl/recordings"
    tmpfs_mb: Annotated[int, Meta(ge=16, le=1_048_576)] = 1024
    group: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None
    vault: str | None = None
    tenant: Name | None = None
    spool_max_mb: Annotated[int, Meta(ge=1, le=16_777_216)] = 4096
    unable: Literal["go_on", "refuse"] = "go_on"
    noswap: bool = True
    rate_hz: Literal[8000, 16000] | None = None

    def rate_on(self, kind: Kind) -> int:
        """Hz. Asterisk holds 32 KiB of each file back: the higher rate halves the time of it."""
        return self.rate_hz or (16_000 if kind is Kind.ASTERISK else 8_000)
