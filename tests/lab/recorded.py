"""A fleet that records: a tmpfs, a vault of its own, and the key to what the vault takes."""

from __future__ import annotations

import datetime as dt
import math
import operator
import secrets
import time
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from controller.fleet.acl import USERS, acl_file
from controller.pki.store import renew_due
from controller.vault import header as headers
from controller.vault import xwing
from controller.vault.bodies import Bodies
from controller.vault.body import Reader
from controller.vault.header import Header, Particulars
from controller.vault.intake import open_intake
from controller.vault.keys.published import PublicKey, publish
from controller.vault.store import open_store
from controller.vault.wire import End
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.node import write_secret
from tests.lab.rendered import put_rendered, takes
from tests.lab.until import until

NUMBERS = [{"prefix": "95", "service": "echo"}]
RULES = [{"name": "all-echo", "service": "echo", "retention_days": 30}]


@dataclass(frozen=True)
class Taken:
    """A recording as the vault has it. left, right: samples; end: None while it grows."""

    id: str
    header: Header
    particulars: Particulars
    end: End | None
    chunks: int
    plain: bytes

    @property
    def left(self) -> array[int]:
        return array("h", self.plain)[::2]

    @property
    def right(self) -> array[int]:
        return array("h", self.plain)[1::2]


class RecordingFleet(LabFleet):
    """The vault takes and has no private key: the test has it, and opens what the vault has.

    Redis has a user for each role, and `lab`, who may do everything.
    """

    def __init__(
        self,
        lab: Lab,
        nodes: Mapping[Asterisk | FreeSwitch, str],
        *callers: str,
        recordings: Mapping[str, Any] | None = None,
        numbers: Collection[Mapping[str, str]] = NUMBERS,
        options: str = "noswap",
        size_mb: int = 64,
        vault: Mapping[str, Any] | None = None,
    ) -> None:
        self.tmpfs = lab.run.tmpfs(size_mb, options)
        self.vault = f"{lab.address()}:8446"
        settings = {
            # whoever calls from there is believed to be an edge
            "edges": {f"k{i}": {"region": "east", "sip": sip} for i, sip in enumerate(callers)},
            "numbers": list(numbers),
            "agent": {"host": lab.address()},
            "vault": {"ingest": self.vault, "listen": f"{lab.address()}:8445", "duties": "ingest"}
            | dict(vault or {}),
            "recordings": {"folder": str(self.tmpfs), "rules": RULES} | dict(recordings or {}),
            "redis": {"users": "users"},
        }
        passwords = {role: secrets.token_urlsafe(24) for role in USERS}
        acl = lab.run.folder / "users.acl"
        acl.write_text(acl_file("lab", passwords) + "user lab on nopass ~* &* +@all\n")
        redis = lab.redis(options={"aclfile": str(acl)})
        super().__init__(lab, nodes, redis, user="fleet", settings=settings, calls_max=50)
        users = self.folder / "users"
        users.mkdir()
        for role, password in passwords.items():
            write_secret(users / role, password)
        renew_due(self.config, dt.datetime.now(dt.UTC))
        self._private = xwing.generate()
        public = xwing.public_key(self._private)
        self.config.vault_path.mkdir(mode=0o700, parents=True)
        key = PublicKey(xwing.key_id(public), public, time.time_ns() // 1000)
        publish(self.config.vault_path / "public-keys.json", (key,))

    def start_all(self) -> None:
        for node in self.nodes.values():
            put_rendered(self.config, node)
        self.start_vault()
        for role in ("driver", "steward", "agent"):
            self.start(role)
        self.until_active()
        until(self.able, 10, "the agent can record")

    def start_vault(self) -> None:
        self.start("vault")
        until(lambda: takes(self.vault), 10, "the vault listens")

    def able(self) -> bool:
        """Whether the agent has a key to seal to, which it keeps on disk."""
        kept = self.config.state_path / "agent" / "vault.key"
        return kept.exists() and takes(f"{self.config.agent.host}:{self.config.agent.port}")

    def recordings(self) -> list[str]:
        """Ids of all that the vault has heard of."""
        bodies = Bodies(open_store(self.config))
        return sorted(bodies.all_growing())

    def taken(self, recording: str) -> Taken:
        bodies = Bodies(open_store(self.config))
        growing = bodies.growing(recording)
        assert growing
        waiting = open_intake(self.config).get(recording)
        assert waiting
        header = headers.decode(waiting.header)
        data_key, said = headers.open_envelope(self._private, header, waiting.envelope)
        read, sealed_bytes, complete = bodies.open_body(recording)
        reader = Reader(header.suite, data_key, waiting.header, read, sealed_bytes, complete)
        return Taken(
            recording,
            header,
            headers.decode_particulars(said),
            growing.end,
            growing.next,
            reader.read(0, reader.plain_bytes),
        )

    def ended(self, count: int = 1, timeout_s: float = 15) -> list[Taken]:
        """Waits for so many recordings to have ended, and opens them."""

        def over() -> list[Taken]:
            bodies = Bodies(open_store(self.config))
            found = [r for r in bodies.all_growing() if (g := bodies.growing(r)) and g.end]
            return [self.taken(r) for r in found] if len(found) >= count else []

        return until(over, timeout_s, f"{count} recordings have ended, of {self.recordings()}")


def linear(law: bytes) -> array[int]:
    """u-law as the samples that any decoder makes of it (G.711), s16."""
    return array("h", (_expand(byte) for byte in law))


def _expand(byte: int) -> int:
    inverted = ~byte & 0xFF
    magnitude = (((inverted & 0x0F) << 3) + 132 << ((inverted & 0x70) >> 4)) - 132
    return -magnitude if inverted & 0x80 else magnitude


def heard_share(told: array[int], heard: array[int], frame: int = 160) -> float:
    """Share of the 20 ms frames of `told` that are in `heard`, sample by sample and in order."""
    frames = [told[i : i + frame].tobytes() for i in range(0, len(told) - frame, frame)]
    text, at, found = heard.tobytes(), 0, 0
    for piece in frames:
        place = text.find(piece, at)
        if place >= 0:
            found, at = found + 1, place + len(piece)
    return found / len(frames)


#: hisses lose some by the resampling
ALIKE = 0.8


def alike_share(told: array[int], heard: array[int], frame: int = 160) -> float:
    """As `heard_share`, for audio that was resampled on its way: frames of which the shape is
    there, in order. Both at the same rate; silence counts as nothing."""
    at, found, loud = 0, 0, 0
    for start in range(0, len(told) - frame, frame):
        piece = told[start : start + frame]
        if max(map(abs, piece)) < 500:
            continue
        loud += 1
        near = range(max(0, at - 4), min(at + 5, len(heard) - frame))
        far = range(at, min(at + 4000, len(heard) - frame))
        likeness, place = max(
            ((_likeness(piece, heard[p : p + frame]), p) for p in near), default=(0.0, at)
        )
        if likeness <= ALIKE:  # a tone is like itself in many places: the first one counts
            place = next((p for p in far if _likeness(piece, heard[p : p + frame]) > ALIKE), -1)
        if place >= 0:
            found, at = found + 1, place + frame
    return found / loud


def _likeness(one: array[int], other: array[int]) -> float:
    """Their correlation, -1 to 1."""
    if len(other) < len(one):
        return 0.0
    product = sum(map(operator.mul, one, other))
    energy = sum(map(operator.mul, one, one)) * sum(map(operator.mul, other, other))
    return product / math.sqrt(energy) if energy else 0.0
