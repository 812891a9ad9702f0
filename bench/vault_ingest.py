"""How fast a vault takes segments: the role in a process of its own, with duties `ingest`.

Agents come by mutual TLS, each with the certificate of a node of its own and one request at a time,
as they do. A request has one chunk of each of an agent's live recordings; an acknowledgement means
that every one of them was written, synced with its folder, and read back from the disk. The audio
is random, sealed beforehand for nobody: an ingesting vault has no key and looks at none.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Figure, percentile
from controller.agent.shipping import Shipping
from controller.config import Config
from controller.config_file import parse
from controller.errors import Unreachable
from controller.pki.store import renew_due
from controller.vault import xwing
from controller.vault.body import CHUNK, SEALED
from controller.vault.header import ENVELOPE_BYTES, Header
from controller.vault.keys.published import PublicKey, publish
from controller.vault.suites import SALT_BYTES
from controller.vault.wire import Begin, Chunks, Frame, State, encode

SETUP = "agents that bring a chunk of each live call to a vault that syncs to the disk of /var/tmp"
AGENTS, CALLS = 4, 50
INGEST = "127.0.58.1:8446"
WARM_S = 2.0
READY_S = 20.0
#: of a call at 8 kHz, stereo
CHUNK_S = CHUNK / 32_000
CONFIG = f"""
fleet: bench
regions: {{{{here: {{{{}}}}}}}}
nodes:
{{nodes}}
security: {{{{signalling: plain, media: plain, control: plain}}}}
metrics: {{{{first_port: 0}}}}
vault: {{{{ingest: "{INGEST}", duties: ingest}}}}
recordings: {{{{rules: []}}}}
state_dir: state
"""
NODE = """  n{i}: {{kind: asterisk, region: here, sip: "127.0.58.2:{port}",
    control: "127.0.58.2:{ami}", password_file: secret}}"""
PIECE = secrets.token_bytes(SEALED)


@dataclass
class Agent:
    """Its recordings and how far each is. Answers in seconds, of requests and of chunks."""

    shipping: Shipping
    recordings: list[Begin]
    next: int = 0
    took_s: list[float] = field(default_factory=list)

    async def bring(self) -> int:
        """One chunk of each recording; how many were acknowledged."""
        frames: list[Frame] = []
        for begin in self.recordings:
            if not self.next:
                frames.append(begin)
            frames.append(Chunks(begin.recording, self.next, PIECE))
        began_s = time.perf_counter()
        acks = await self.shipping.ship(encode(frames))
        self.took_s.append(time.perf_counter() - began_s)
        self.next += 1
        wrong = [a for a in acks if a.state is not State.OPEN or a.next != self.next]
        if wrong or len(acks) != len(self.recordings):
            raise RuntimeError(f"the vault did not take all: {wrong[:2]}")
        return len(acks)


def figures(*, quick: bool) -> tuple[Figure, ...]:
    seconds = 4.0 if quick else 20.0
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="pbxctl-bench-") as place:
        config = _config(Path(place))
        vault = subprocess.Popen(
            [sys.executable, "-m", "controller.cli", "--config", config.source, "run", "vault"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return asyncio.run(_measure(config, seconds))
        finally:
            os.kill(vault.pid, signal.SIGTERM)
            vault.wait(20)


async def _measure(config: Config, seconds: float) -> tuple[Figure, ...]:
    agents = [_agent(config, f"n{i}", CALLS) for i in range(AGENTS)]
    lone = _agent(config, "n0", 1)
    try:
        await _ready(lone)
        chunks, wall_s, took_s = await _for(agents, seconds)
        alone, _, alone_s = await _for([lone], seconds / 2)
        if not alone:
            raise RuntimeError("the lone agent was never answered")
    finally:
        for agent in (*agents, lone):
            await agent.shipping.close()
    rate = chunks / wall_s
    return (
        Figure("ingest_segments_per_s", rate, "segments of 16 KiB that the vault answered for"),
        Figure("ingest_mb_per_s", rate * CHUNK / 1e6, "audio in them, MB/s"),
        Figure("ingest_calls", rate * CHUNK_S, "live calls at 8 kHz that bring so much"),
        Figure(
            "ingest_ack_p99_ms", percentile(took_s, 0.99) * 1000,
            f"request to acknowledgement at that rate, {CALLS} segments each, {AGENTS} agents",
        ),
        Figure("ingest_ack_p50_ms", percentile(took_s, 0.5) * 1000, "median of the same"),
        Figure("ingest_alone_p99_ms", percentile(alone_s, 0.99) * 1000, "one agent, one segment"),
        Figure("ingest_alone_p50_ms", percentile(alone_s, 0.5) * 1000, "median of the same"),
    )  # fmt: skip


async def _for(agents: list[Agent], seconds: float) -> tuple[int, float, list[float]]:
    """Chunks taken, in how long, and each request's time; a warm-up before it."""

    async def until_s(agent: Agent, end_s: float) -> int:
        taken = 0
        while time.perf_counter() < end_s:
            taken += await agent.bring()
        return taken

    await asyncio.gather(*(until_s(a, time.perf_counter() + WARM_S) for a in agents))
    for agent in agents:
        agent.took_s.clear()
    began_s = time.perf_counter()
    taken = await asyncio.gather(*(until_s(a, began_s + seconds) for a in agents))
    wall_s = time.perf_counter() - began_s
    return sum(taken), wall_s, [s for agent in agents for s in agent.took_s]


async def _ready(agent: Agent) -> None:
    deadline_s = time.monotonic() + READY_S
    while True:
        try:
            await agent.shipping.public_key()
            return
        except Unreachable:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.1)


def _agent(config: Config, node: str, calls: int) -> Agent:
    return Agent(Shipping(config, node), [_begin(config.fleet, node) for _ in range(calls)])


def _begin(tenant: str, node: str) -> Begin:
    recording = secrets.token_hex(16)
    header = Header(tenant, node, recording, time.time_ns() // 1000)
    prologue = secrets.token_bytes(SALT_BYTES + 32)
    envelope = b"\1" + secrets.token_bytes(ENVELOPE_BYTES - 1)
    return Begin(recording, header.encode(), envelope, prologue)


def _config(place: Path) -> Config:
    (place / "secret").write_text("none\n")
    (place / "secret").chmod(0o600)
    (place / "state").mkdir()
    nodes = "\n".join(NODE.format(i=i, port=5060 + i, ami=5160 + i) for i in range(AGENTS))
    file = place / "pbxctl.yaml"
    file.write_text(CONFIG.format(nodes=nodes))
    config = parse(file.read_text(), str(file))
    renew_due(config, dt.datetime.now(dt.UTC))
    config.vault_path.mkdir(mode=0o700, parents=True)
    public = xwing.public_key(xwing.generate())
    key = PublicKey(xwing.key_id(public), public, time.time_ns() // 1000)
    publish(config.vault_path / "public-keys.json", (key,))
    return config
