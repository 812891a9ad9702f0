"""Recordings as an agent seals them, whole, for the tests of what a vault does with them."""

from __future__ import annotations

import math
import secrets
import struct
import time
from dataclasses import dataclass, field

from controller.vault import header as headers
from controller.vault import xwing
from controller.vault.body import CHUNK, SEALED, Sealer
from controller.vault.header import Header, Particulars
from controller.vault.wire import Begin, Chunks, End, Frame, Outcome

PRIVATE = xwing.generate()
PUBLIC = xwing.public_key(PRIVATE)


def tone(seconds: float, hz: float = 440.0, rate_hz: int = 8000, channels: int = 2) -> bytes:
    """s16le: a sine on the left, silence on the right."""
    samples = []
    for i in range(int(seconds * rate_hz)):
        left = int(12_000 * math.sin(2 * math.pi * hz * i / rate_hz))
        samples += [left] + [0] * (channels - 1)
    return struct.pack(f"<{len(samples)}h", *samples)


@dataclass
class Recording:
    """One recording: `frames()` is all that an agent says of it."""

    plain: bytes = b""
    node: str = "n1"
    tenant: str = "test"
    started_us: int = field(default_factory=lambda: time.time_ns() // 1000)
    particulars: Particulars = field(
        default_factory=lambda: Particulars("call-1", "+4930111", "4001", "all", 30)
    )
    public_key: bytes = PUBLIC
    outcome: Outcome = Outcome.COMPLETE
    suite: str = "cobblestone-256"

    def __post_init__(self) -> None:
        self.id = secrets.token_hex(16)
        self.header = Header(self.tenant, self.node, self.id, self.started_us, self.suite)
        self.data_key = secrets.token_bytes(32)
        sealer = Sealer(self.suite, self.data_key, self.header.encode(), secrets.token_bytes(24))
        whole = len(self.plain) // CHUNK
        self.chunks = [sealer.seal(i, self.plain[i * CHUNK :][:CHUNK]) for i in range(whole)]
        if self.outcome is Outcome.COMPLETE:
            self.chunks.append(sealer.seal(whole, self.plain[whole * CHUNK :], last=True))
        else:
            self.plain = self.plain[: whole * CHUNK]
        self.prologue = sealer.prologue
        self.envelope = headers.seal_envelope(
            self.public_key,
            xwing.key_id(self.public_key),
            self.header,
            self.data_key,
            self.particulars.encode(),
        )

    @property
    def body(self) -> bytes:
        return self.prologue + b"".join(self.chunks)

    def begin(self) -> Begin:
        return Begin(self.id, self.header.encode(), self.envelope, self.prologue)

    def some(self, first: int, count: int = 1) -> Chunks:
        return Chunks(self.id, first, b"".join(self.chunks[first : first + count]))

    def end(self) -> End:
        return End(self.id, len(self.chunks), len(self.plain), self.outcome, "", 60_000)

    def frames(self) -> list[Frame]:
        return [self.begin(), self.some(0, len(self.chunks)), self.end()]


def plain(chunks: float) -> bytes:
    """So many chunks of noise, in whole stereo samples; unlike audio it shows every swap."""
    return secrets.token_bytes(int(chunks * CHUNK) // 4 * 4)


__all__ = ["CHUNK", "PRIVATE", "PUBLIC", "SEALED", "Recording", "plain", "tone"]
