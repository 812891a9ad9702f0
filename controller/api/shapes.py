"""What travels over the gate's API, as JSON. The keys are stable: scripts depend on them.

docs/cli.md lists them, because `-o json` prints these shapes as they are.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from controller.fleet.state import Alarm, CallRecord, NodeView
from controller.model import MediaPolicy, Priority, Want

Text = Annotated[str, Meta(max_length=256)]


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a request. dry_run: say what would happen, change nothing."""

    dry_run: bool = False


class HangupAsk(Ask, frozen=True, kw_only=True):
    """cause: a Q.850 number; 16 is normal clearing."""

    cause: Annotated[int, Meta(ge=1, le=127)] = 16


class OriginateAsk(Ask, frozen=True, kw_only=True):
    """Rings `to`; once it answers it is connected to what the number plan has for `from`.

    region: "" for the first one of the config. timeout_s: how long `to` may ring.
    """

    to: Text
    caller: Text = msgspec.field(name="from")
    region: Text = ""
    priority: Priority | None = None
    timeout_s: Annotated[float, Meta(ge=1, le=300)] = 30.0


class RouteAsk(Ask, frozen=True, kw_only=True):
    """Where a call would go. With dry_run false it is placed: a reservation is made for it."""

    dry_run: bool = True
    to: Text
    caller: Text = msgspec.field(name="from", default="")
    region: Text = ""
    priority: Priority | None = None
    call_id: Text = ""


class Nodes(msgspec.Struct, frozen=True):
    nodes: list[NodeView]


class NodeAction(msgspec.Struct, frozen=True):
    """pbx: what the PBX itself did: done, failed, unknown, or "" when it was not asked."""

    node: str
    action: str
    before: str
    want: Want
    calls: int
    dry_run: bool
    pbx: str = ""
    message: str = ""


class AttestedLeg(msgspec.Struct, frozen=True):
    """encrypted, tls: null when the PBX could not tell; suite: "" when it does not."""

    leg: str
    encrypted: bool | None
    suite: str
    tls: bool | None
    peer: str
    checked_ms: int


class Attested(msgspec.Struct, frozen=True):
    """verdict: encrypted, plain or unknown. action: none, alarm or hangup, with its reason.

    packets: what the agent saw on the wire: "" for not looked at, encrypted, clear, not checked.
    """

    verdict: str
    action: str
    reason: str
    checked_ms: int
    packets: str
    legs: list[AttestedLeg]


class CallView(msgspec.Struct, frozen=True):
    """One call. key: names it in every command; times are ms of Redis TIME, 0 for not yet."""

    key: str
    call_id: str
    state: str
    node: str
    pbx_id: str
    placement: str
    region: str
    caller: str
    callee: str
    priority: str
    service: str
    reason: str
    tried: list[str]
    placed_ms: int
    started_ms: int
    answered_ms: int
    ended_ms: int
    cause: int
    security: Attested | None


class Calls(msgspec.Struct, frozen=True):
    """truncated: a node has more calls than were asked for."""

    calls: list[CallView]
    truncated: bool = False


class Alarms(msgspec.Struct, frozen=True):
    alarms: list[Alarm]


class Why(msgspec.Struct, frozen=True):
    """A call and its story in plain words, a sentence an entry. now_ms: Redis TIME."""

    call: CallView
    words: list[str]
    now_ms: int


class CallAction(msgspec.Struct, frozen=True):
    """state: done, failed, unknown, or "dry_run"."""

    action: str
    node: str
    state: str
    message: str = ""
    call_id: str = ""
    pbx_id: str = ""
    placement: str = ""


class RouteAnswer(msgspec.Struct, frozen=True):
    """verdict: place or reject. cause: SIP status, 0 for place."""

    verdict: str
    reason: str
    dry_run: bool
    region: str
    node: str = ""
    address: str = ""
    placement: str = ""
    service: str = ""
    cause: int = 0
    retry_after_s: int = 0


class FleetView(msgspec.Struct, frozen=True):
    """The fleet as a whole. counters: as Fleet.stats has them, since Redis has its data."""

    fleet: str
    version: str
    now_ms: int
    leader: str
    drivers: list[str]
    nodes: list[NodeView]
    counters: dict[str, int]


class PhoneAddAsk(Ask, frozen=True, kw_only=True):
    """display: any text; phones and PBXs see what render/phones.py leaves of it."""

    name: Text
    region: Text = ""
    display: str = ""
    policy: MediaPolicy = MediaPolicy.REQUIRE


class PhonePlace(msgspec.Struct, frozen=True):
    """Where a phone is registered. Times are ms of Redis TIME."""

    node: str
    contact: str
    transport: str
    user_agent: str
    since_ms: int
    ends_ms: int


class PendingNode(msgspec.Struct, frozen=True):
    """A node whose PBX does not run on the phone's last change yet; why, where that is known."""

    node: str
    problem: str


class PhoneView(msgspec.Struct, frozen=True):
    """One phone. state: ready, pending (some node lacks its last change), removing. at: the latest
    registration first. Times are ms since 1970, 0 for never."""

    name: str
    display: str
    region: str
    policy: MediaPolicy
    state: str
    pending: list[PendingNode]
    at: list[PhonePlace]
    created_ms: int
    rotated_ms: int


class Phones(msgspec.Struct, frozen=True):
    """now_ms: Redis TIME."""

    phones: list[PhoneView]
    now_ms: int


class PhoneCredentials(msgspec.Struct, frozen=True):
    """Shown once. uri: what the QR code says; files: relative path to text. All hold the password.

    With dry_run the password is "" and no file is made.
    """

    phone: PhoneView
    dry_run: bool
    realm: str
    password: str = ""
    uri: str = ""
    files: dict[str, str] = {}


class PhoneZone(msgspec.Struct, frozen=True):
    """DNS records in zone-file form."""

    zone: str


class ErrorBody(msgspec.Struct, frozen=True):
    kind: str
    message: str
    hint: str
    exit_code: int


class ErrorReply(msgspec.Struct, frozen=True):
    error: ErrorBody


def call_key(call: CallRecord) -> str:
    """The record's own name in Redis (lua/redis/20_route.lua, 30_calls.lua)."""
    if call.placement:
        return call.placement.rsplit("-", 1)[0]
    seed = f"{call.node}\0{call.pbx_id}".encode("utf-8", "surrogateescape")
    return hashlib.sha1(seed, usedforsecurity=False).hexdigest()[:32]


def call_view(call: CallRecord) -> CallView:
    """The record under the names that people and scripts see."""
    apart = ("key", "tried", "security")
    values = {f: getattr(call, f) for f in CallView.__struct_fields__ if f not in apart}
    security = msgspec.convert(call.security, Attested | None, from_attributes=True)
    return CallView(key=call_key(call), tried=sorted(call.tried), security=security, **values)
