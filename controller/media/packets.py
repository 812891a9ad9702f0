"""Do the packets of a leg carry sound in clear, or noise as a cipher makes it? Pure.

A cipher's bytes are uniform; G.711 speech and silence, and every other voice codec we know of, are
not. So the test is chi-square of the payload bytes against the uniform distribution, over all of
them and over the first bytes of each packet, where codecs have their headers. It needs no key,
and no belief in what the PBX says.

What it cannot tell: who holds the key, and sound that somebody whitened on purpose. Too few
packets, or none of RTP's form, is "not checked", never "encrypted".
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Literal

import msgspec

PACKETS_MIN = 30
PAYLOAD_MIN_BYTES = 20  # telephone-events and comfort noise are shorter
BYTES_MIN = 2000
HEAD_BYTES = 2
# chi-square with 255 degrees of freedom: mean 255, deviation 22.6. 14 deviations above the mean no
# cipher comes once in the life of the fleet; a second of G.711 silence or speech has some 10,000.
CHI_SQUARE_MAX = 570.0
FRAME_BYTES = 80  # of G.711: 10 ms
G711 = (0, 8)  # payload types, RFC 3551
_RTCP = range(64, 96)  # RFC 5761 section 4: RTCP's packet types without their top bit

Wire = Literal["clear", "encrypted", "not checked"]


class Look(msgspec.Struct, frozen=True):
    """wire: what one direction of a leg is. tag_bytes: authentication tag of SRTP over G.711, None
    when the lengths do not show one."""

    wire: Wire
    packets: int = 0
    chi_square: float = 0.0
    tag_bytes: int | None = None


def look(datagrams: Iterable[bytes]) -> Look:
    """datagrams: UDP payloads of one direction between two ports, in any order, hostile bytes."""
    streams: defaultdict[tuple[int, int], dict[int, bytes]] = defaultdict(dict)
    for datagram in datagrams:
        parsed = _payload(datagram)
        if parsed is not None:
            stream, sequence, payload = parsed
            streams[stream][sequence] = payload  # a repeated packet counts once
    if not streams:
        return Look("not checked")
    (kind, _), stream_packets = max(streams.items(), key=lambda item: len(item[1]))
    payloads = list(stream_packets.values())
    size = sum(map(len, payloads))
    if len(payloads) < PACKETS_MIN or size < BYTES_MIN:
        return Look("not checked", len(payloads))
    chi_square = _chi_square(b"".join(payloads))
    clear = chi_square > CHI_SQUARE_MAX or any(
        _one_value_rules([payload[at] for payload in payloads]) for at in range(HEAD_BYTES)
    )
    if clear:
        return Look("clear", len(payloads), chi_square)
    return Look("encrypted", len(payloads), chi_square, _tag_bytes(kind, payloads))


def worst(looks: Iterable[Look]) -> Look:
    """Of both directions of a leg: one in clear is enough, one unseen proves nothing."""
    order: tuple[Wire, ...] = ("clear", "encrypted", "not checked")
    return min(looks, key=lambda each: order.index(each.wire), default=Look("not checked"))


def _payload(datagram: bytes) -> tuple[tuple[int, int], int, bytes] | None:
    """(payload type, SSRC), sequence number and payload; None for what is no RTP (RFC 3550 5.1)."""
    if len(datagram) < 12 or datagram[0] >> 6 != 2:
        return None
    kind = datagram[1] & 0x7F
    if kind in _RTCP:
        return None
    sequence, _, ssrc = struct.unpack_from("!HII", datagram, 2)
    start = 12 + 4 * (datagram[0] & 0x0F)
    if datagram[0] & 0x10:
        if len(datagram) < start + 4:
            return None
        start += 4 + 4 * struct.unpack_from("!H", datagram, start + 2)[0]
    payload = datagram[start:]
    if len(payload) < PAYLOAD_MIN_BYTES:
        return None
    return (kind, ssrc), sequence, payload


def _chi_square(data: bytes) -> float:
    expected = len(data) / 256
    counts = Counter(data)
    return sum((counts[value] - expected) ** 2 for value in range(256)) / expected


def _one_value_rules(values: list[int]) -> bool:
    """Half of at least PACKETS_MIN uniform bytes never agree; a codec's first byte does."""
    return Counter(values).most_common(1)[0][1] * 2 > len(values)


def _tag_bytes(kind: int, payloads: list[bytes]) -> int | None:
    if kind not in G711:
        return None
    length = Counter(map(len, payloads)).most_common(1)[0][0] % FRAME_BYTES
    return length if 0 < length <= 20 else None
