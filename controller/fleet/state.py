"""What the library in Redis answers, as types. Field by field as lua/redis/ writes it."""

from __future__ import annotations

import msgspec

from controller.model import MediaVerdict, NodeState, Want


class NodeView(msgspec.Struct, frozen=True):
    """One node as placement sees it. -1 stands for "not told" in cpu, loss, jitter_ms and mes.

    load: the fullest signal over the weight; calls: live; reserved: placed, not shown yet.
    drift: calls by which the live set was wrong at the last comparison with the node's own list.
    """

    name: str
    region: str
    address: str
    kind: str
    version: str
    state: NodeState
    reason: str
    want: Want
    load: float
    calls: int
    reserved: int
    calls_max: int
    channels: int
    channels_max: int
    arrivals_per_s: float
    cpu: float
    weight: float
    silent_ms: int
    loss: float
    jitter_ms: float
    driver: str
    drift: int
    problem: str = ""
    mes: float = -1.0


class LegMedia(msgspec.Struct, frozen=True, rename={"encrypted": "enc", "checked_ms": "t"}):
    """One leg's media as its PBX told it at checked_ms; encrypted None: it could not tell."""

    leg: str
    encrypted: bool | None = None
    suite: str = ""
    tls: bool | None = None
    peer: str = ""
    checked_ms: int = 0


class Attestation(msgspec.Struct, frozen=True, rename={
    "verdict": "v", "action": "a", "reason": "why", "checked_ms": "t",
}):  # fmt: skip
    """What a call's media was found to be, first so at checked_ms, and what followed from it.

    action: none, alarm or hangup. packets: what the agent saw on the wire: "", "encrypted",
    "clear" or "not checked".
    """

    verdict: MediaVerdict
    action: str = "none"
    reason: str = ""
    checked_ms: int = 0
    legs: tuple[LegMedia, ...] = ()
    packets: str = ""


class Alarm(msgspec.Struct, frozen=True):
    """Something that a person should see. kind: media, packets. call: its key; t: Redis TIME."""

    kind: str
    node: str
    call: str
    reason: str
    t: int


class CallRecord(msgspec.Struct, frozen=True, rename={
    "call_id": "id", "node": "n", "placement": "p", "state": "s", "region": "r",
    "caller": "from", "callee": "to", "priority": "pri", "service": "svc",
    "placed_ms": "t", "reason": "why", "tried": "x", "pbx_id": "pbx",
    "started_ms": "ts", "answered_ms": "ta", "ended_ms": "te", "security": "sec",
}):  # fmt: skip
    """One call. call_id is "" for a call that the fleet did not place; times are Redis TIME."""

    node: str
    state: str
    call_id: str = ""
    placement: str = ""
    region: str = ""
    caller: str = ""
    callee: str = ""
    priority: str = ""
    service: str = ""
    placed_ms: int = 0
    reason: str = ""
    tried: tuple[str, ...] = ()
    pbx_id: str = ""
    started_ms: int = 0
    answered_ms: int = 0
    ended_ms: int = 0
    cause: int = 0
    security: Attestation | None = None


class Beat(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node's health as its driver knows it. silence_ms: age of its last sign of life.

    in_step: False once events were lost; only a comparison with the truth mends that.
    problem: why there is no link, for the operator; "" when there is none.
    """

    link: bool
    silence_ms: int = msgspec.field(default=0)
    sip: bool | None = None
    channels: int | None = None
    channels_max: int | None = None
    calls_max: int | None = None
    cpu: float | None = None
    loss: float | None = None
    jitter: float | None = None
    mes: float | None = None
    version: str | None = None
    in_step: bool | None = None
    problem: str | None = None


class Command(msgspec.Struct, frozen=True):
    id: str
    body: bytes


class Lease(msgspec.Struct, frozen=True):
    """epoch: a decimal number as Redis wrote it; compared, never computed with."""

    node: str
    epoch: str


class Presence(msgspec.Struct, frozen=True):
    """now_ms: Redis TIME. leader: the steward's name, "" for none. drivers: those alive."""

    now_ms: int
    leader: str
    drivers: tuple[str, ...]
