"""Recordings as an agent makes them, their vault's key, and a vault of a few lines.

The vault is a fake that keeps the contract of controller/vault/wire.py in memory: it takes chunks
in order, answers what it holds, and can be away, hang, or forget.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import msgspec

from controller.agent.recorder import Recorder
from controller.agent.shipping import Refusal, Shipping
from controller.agent.spool import Openings, Spool
from controller.agent.tmpfs import Files, Memo
from controller.errors import Unreachable
from controller.pbx.recorded_files import STEREO, Layout
from controller.vault import header as headers
from controller.vault import wire, xwing
from controller.vault.body import SEALED, Reader, Sealer
from controller.vault.header import Header, Particulars, seal_envelope
from controller.vault.wire import Ack, Begin, Chunks, End, Outcome, State

PRIVATE = xwing.generate()
PUBLIC = xwing.public_key(PRIVATE)


def new(folder: Path, layout: Layout = STEREO) -> tuple[Files, Memo]:
    files = Files(folder, secrets.token_hex(16))
    header = Header("t", "n", files.recording, 1_790_000_000_000_000)
    key, salt = secrets.token_bytes(32), secrets.token_bytes(24)
    said = Particulars("call", "1", "2", "all", 30).encode()
    envelope = seal_envelope(PUBLIC, xwing.key_id(PUBLIC), header, key, said)
    prologue = Sealer(header.suite, key, header.encode(), salt).prologue
    begin = Begin(files.recording, header.encode(), envelope, prologue)
    memo = Memo(begin, key, salt, header.started_us, "call", "pbx", "leg", "all", layout=layout)
    files.make(memo, None)
    return files, memo


class FakeVault(Shipping):
    """Speaks as the vault does. away: refuses to answer; silent: never answers."""

    def __init__(self) -> None:
        self.begun: dict[str, Begin] = {}
        self.bodies: dict[str, list[bytes]] = {}
        self.ends: dict[str, End] = {}
        self.away = self.silent = False
        self.refuses: str = ""
        self.requests: list[list[wire.Frame]] = []

    async def ship(self, body: bytes) -> list[Ack]:
        if self.away:
            raise Unreachable("the fake vault is away")
        if self.silent:
            await asyncio.Event().wait()
        try:
            frames = wire.frames(body)
        except msgspec.DecodeError as error:
            raise Refusal(f"the vault answers 400: {error}", 400) from error
        self.requests.append(frames)
        for frame in frames:
            self._take(frame)
        return [self._ack(recording) for recording in dict.fromkeys(f.recording for f in frames)]

    def _take(self, frame: wire.Frame) -> None:
        if isinstance(frame, Begin):
            if frame.recording not in self.begun:
                self.begun[frame.recording] = frame
                self.bodies[frame.recording] = []
            assert self.begun[frame.recording] == frame
        elif frame.recording not in self.begun:
            return
        elif isinstance(frame, Chunks):
            held = self.bodies[frame.recording]
            pieces = [frame.data[i : i + SEALED] for i in range(0, len(frame.data), SEALED)]
            for index, piece in enumerate(pieces, frame.first):
                if index < len(held):
                    assert held[index] == piece, "a chunk was sealed with two plaintexts"
                elif index == len(held):
                    held.append(piece)
        elif frame.chunks == len(self.bodies[frame.recording]):
            self.ends.setdefault(frame.recording, frame)

    def _ack(self, recording: str) -> Ack:
        if recording == self.refuses:
            return Ack(recording, 0, State.REFUSED, "no more of it")
        if recording not in self.begun:
            return Ack(recording, 0, State.UNKNOWN)
        state = State.ENDED if recording in self.ends else State.OPEN
        return Ack(recording, len(self.bodies[recording]), state)

    def plain(self, recording: str) -> bytes:
        begin = self.begun[recording]
        header = headers.decode(begin.header)
        key, _ = headers.open_envelope(PRIVATE, header, begin.envelope)
        body = begin.prologue + b"".join(self.bodies[recording])
        end = self.ends.get(recording)
        complete = end is not None and end.outcome is Outcome.COMPLETE
        reader = Reader(
            header.suite, key, begin.header, lambda at, n: body[at : at + n], len(body), complete
        )
        return reader.read(0, reader.plain_bytes)


class Node:
    """A recorder on folders of its own, which outlive it: `again` is what a killed agent leaves."""

    def __init__(self, place: Path, vault: FakeVault, *, spool_bytes: int = 1 << 30) -> None:
        self.place, self.vault, self.spool_bytes = place, vault, spool_bytes
        self.tmpfs = place / "tmpfs"
        self.tmpfs.mkdir(exist_ok=True)
        self.alarms: list[str] = []
        self.stopped: list[str] = []
        self.spool = Spool(place / "spool", spool_bytes)
        self.recorder = Recorder(
            "n", self.tmpfs, self.spool, Openings(place / "spool" / "open"), vault,
            alarm=self._alarm, stop=lambda memo: self.stopped.append(memo.begin.recording),
        )  # fmt: skip

    def _alarm(self, words: str) -> None:
        asyncio.get_running_loop()  # from a thread the agent could not pass it on
        self.alarms.append(words)

    def record(self, layout: Layout = STEREO) -> Files:
        files, memo = new(self.tmpfs, layout)
        self.recorder.begin(files, memo)
        return files

    def again(self) -> Node:
        for recording in self.recorder.live.values():
            # as the kernel does for a dead process
            recording.files.close()
        return Node(self.place, self.vault, spool_bytes=self.spool_bytes)
