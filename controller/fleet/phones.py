"""Phones in Redis: what the steward publishes, what nodes acknowledge, where phones are.

The functions of lua/redis/50_phones.lua, one method each, through the fleet's one door.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import msgspec

from controller.fleet.functions import Fleet
from controller.fleet.state import Lease
from controller.model import MediaPolicy, PhoneGone, PhoneRegistered


class PublishedPhone(msgspec.Struct, frozen=True):
    """What a node's file needs of one phone. Digests as records/phones.py has them."""

    name: str
    display: str
    policy: MediaPolicy
    md5: str
    sha256: str

    def __repr__(self) -> str:
        return f"PublishedPhone({self.name!r})"


class NodePhones(msgspec.Struct, frozen=True):
    """What a node's agent acknowledges: the versions, by region, that its PBX runs on.

    problem: why it is not further, "" when all is well.
    """

    versions: dict[str, int] = {}
    problem: str = ""


class Registration(msgspec.Struct, frozen=True, rename={
    "contact": "c", "user_agent": "ua", "transport": "tr", "since_ms": "t", "ends_ms": "e",
}):  # fmt: skip
    """A phone on a node. Times are Redis TIME; text is printable ASCII."""

    contact: str
    user_agent: str
    transport: str
    since_ms: int
    ends_ms: float


_pack = msgspec.msgpack.encode
_phone = msgspec.msgpack.Decoder(PublishedPhone)
_registration = msgspec.msgpack.Decoder(Registration, strict=False)
_acknowledged = msgspec.json.Decoder(NodePhones)


class FleetPhones:
    """Raises what Fleet raises."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def publish(
        self, epoch: str, region: str, version: int, phones: Iterable[PublishedPhone]
    ) -> None:
        flat = [part for phone in phones for part in (phone.name, _pack(phone))]
        await self._fleet.call_function("publish", epoch, region, version, *flat)

    async def published(self) -> dict[str, int]:
        """The versions in Redis, by region."""
        raw = await self._fleet.read_hash("phonever")
        return {region.decode(): int(version) for region, version in raw.items()}

    async def of_region(self, region: str) -> tuple[int, list[PublishedPhone]] | None:
        """A region's version and phones, or None when it was not published."""
        reply = await self._fleet.call_function("phones", region)
        if not reply:
            return None
        return int(reply[0]), [_phone.decode(blob) for blob in reply[2::2]]

    async def lenient(self, regions: Iterable[str]) -> frozenset[str]:
        """Names of the phones whose policy is `prefer`."""
        return frozenset(
            name.decode() for name in await self._fleet.call_function("lenient", *regions)
        )

    async def acknowledge(self, node: str, phones: NodePhones) -> None:
        await self._fleet.write_hash("phoneack", node, msgspec.json.encode(phones))

    async def acknowledged(self) -> dict[str, NodePhones]:
        """By node; a node that acknowledged nothing that can be read is absent."""
        found = {}
        for node, told in (await self._fleet.read_hash("phoneack")).items():
            # Agents share one user of Redis: none may end the others.
            with contextlib.suppress(msgspec.DecodeError):
                found[node.decode("ascii", "replace")] = _acknowledged.decode(told)
        return found

    async def told(self, lease: Lease, events: Sequence[PhoneRegistered | PhoneGone]) -> None:
        packed = [_told(event) for event in events]
        await self._fleet.call_function("registered", lease.node, lease.epoch, _pack(packed))

    async def reconcile(self, lease: Lease, truth: Iterable[PhoneRegistered]) -> int:
        """Makes the picture of the node's phones equal to its list; how many were gone."""
        packed = [_told(phone) for phone in truth]
        removed = await self._fleet.call_function(
            "reregister", lease.node, lease.epoch, _pack(packed)
        )
        return int(removed)

    async def counts(self, nodes: Sequence[str]) -> dict[str, int]:
        """How many phones are registered on each."""
        told = await self._fleet.call_function("phone_counts", *nodes)
        return {node: int(count) for node, count in zip(nodes, told, strict=True)}

    async def registrations(self, *phones: str) -> dict[str, list[tuple[str, Registration]]]:
        """By phone: the nodes where it is, the latest registration first. No names: all."""
        reply = await self._fleet.call_function("registrations", *phones)
        found: dict[str, list[tuple[str, Registration]]] = {}
        for node, phone, raw in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
            place = (node.decode(), _registration.decode(raw))
            found.setdefault(phone.decode(), []).append(place)
        for places in found.values():
            places.sort(key=lambda place: -place[1].ends_ms)
        return found


def _told(event: PhoneRegistered | PhoneGone) -> dict[str, object]:
    if isinstance(event, PhoneGone):
        return {"name": event.name, "contact": event.contact, "gone": True}
    return {
        "name": event.name,
        "contact": event.contact,
        "expires_s": event.expires_s,
        "user_agent": event.user_agent,
        "transport": event.transport,
    }
