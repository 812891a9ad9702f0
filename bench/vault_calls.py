"""How many live calls an agent seals with 5 % of a core, and what bringing them to the vault costs.

`figures` is for `python -m bench vault`. The files are in a noswap tmpfs, and grow in real time
by 3,200 bytes each 100 ms, which is harder for the agent than Asterisk's 32 KiB a second. A second
process writes them, a third takes what is shipped and answers for it at once: TLS 1.3, decoding and
acknowledging are real, storing is the vault's own affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import multiprocessing as mp
import os
import secrets
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

from aiohttp import web

from bench.figures import Figure
from controller.agent.recorder import TICK_S, Recorder
from controller.agent.sealing import Gatherer, Recording
from controller.agent.shipping import Shipping
from controller.agent.spool import Openings, Spool
from controller.agent.tmpfs import Files, Memo
from controller.config_file import parse
from controller.pbx.recorded_files import SIDES, STEREO, Layout
from controller.pki import contexts
from controller.pki.store import renew_due
from controller.vault import wire, xwing
from controller.vault.body import CHUNK, SEALED, Sealer
from controller.vault.header import Header, Particulars, seal_envelope
from controller.vault.suites import DATA_KEY_BYTES, SALT_BYTES
from controller.vault.wire import Ack, Begin, Chunks, State

SETUP = "files of live calls growing in a noswap tmpfs, by 3,200 bytes each 100 ms"
SHARE = 0.05
CHUNK_MS, CHUNK_BYTES = 100, 3200
WARM_S = 3.0
SINK = "127.0.59.1:8446"
CONFIG = f"""
fleet: bench
regions: {{here: {{}}}}
nodes: {{n: {{kind: asterisk, region: here, sip: "127.0.59.2:5060", control: "127.0.59.2:5038",
  password_file: secret}}}}
security: {{signalling: plain, media: plain, control: plain}}
vault: {{ingest: "{SINK}"}}
recordings: {{rules: []}}
state_dir: state
"""


def figures(*, quick: bool = False) -> tuple[Figure, ...]:
    calls, seconds = (200, 3.0) if quick else (1000, 15.0)
    with tempfile.TemporaryDirectory() as place, noswap_tmpfs(calls) as folder:
        with growing(folder, calls) as recordings:
            sealing = seal_only(recordings, seconds)
        few = calls // 4  # 2 MiB each before anything is freed
        with growing(folder, few, SIDES[16_000]) as recordings:
            merging = seal_only(recordings, seconds)
        with growing(folder, calls) as recordings:
            shipping = asyncio.run(with_shipping(Path(place), folder, recordings, seconds))
    return (
        Figure(
            "calls_per_core",
            calls * SHARE / sealing,
            f"live calls sealed with 5 % of a core, from {calls} that took {sealing:.1%}",
            "≥ 1000",
        ),
        Figure(
            "asterisk_calls_per_core",
            few * SHARE / merging,
            f"the same at 16 kHz out of two mono files of 32 kHz; {few} took {merging:.1%}",
        ),
        Figure(
            "shipping_core_share",
            shipping,
            f"of a core that sealing and shipping {calls} live calls takes, TLS and acks included",
        ),
    )


@contextlib.contextmanager
def noswap_tmpfs(calls: int) -> Iterator[Path]:
    """Needs root. Room for 40 s of every call."""
    with tempfile.TemporaryDirectory(prefix="pbxctl-bench-") as point:
        size = calls * CHUNK_BYTES * 10 * 40 + (64 << 20)
        argv = ["mount", "-t", "tmpfs", "-o", f"noswap,size={size}", "tmpfs", point]
        subprocess.run(argv, check=True)
        try:
            yield Path(point)
        finally:
            subprocess.run(["umount", "--lazy", point], check=True)


@contextlib.contextmanager
def growing(folder: Path, calls: int, layout: Layout = STEREO) -> Iterator[list[Recording]]:
    """Recordings whose files grow until the block ends; in two files at twice the rate."""
    public = xwing.public_key(xwing.generate())
    recordings = [_recording(folder, public, layout) for _ in range(calls)]
    over = mp.get_context("spawn").Event()
    stems = [str(recording.files.raw.with_suffix("")) for recording in recordings]
    paths = [stem + name for stem in stems for name in layout.names]
    piece = CHUNK_BYTES * layout.step
    writer = mp.get_context("spawn").Process(target=_write, args=(paths, piece, over), daemon=True)
    writer.start()
    try:
        yield recordings
    finally:
        over.set()
        writer.join()
        for recording in recordings:
            recording.files.remove()


def _recording(folder: Path, public: bytes, layout: Layout) -> Recording:
    files = Files(folder, secrets.token_hex(16))
    header = Header(
        "bench", "n", files.recording, time.time_ns() // 1000, rate_hz=8000 * layout.step
    )
    data_key, salt = secrets.token_bytes(DATA_KEY_BYTES), secrets.token_bytes(SALT_BYTES)
    said = Particulars("call", "100", "200", "all", 30).encode()
    envelope = seal_envelope(public, xwing.key_id(public), header, data_key, said)
    prologue = Sealer(header.suite, data_key, header.encode(), salt).prologue
    begin = Begin(files.recording, header.encode(), envelope, prologue)
    memo = Memo(
        begin, data_key, salt, header.started_us, "call", "call", "leg", "all", layout=layout
    )
    files.make(memo, None)
    return Recording(files, memo)


def _write(paths: list[str], piece_bytes: int, over: Event) -> None:
    """Each file its piece in each 100 ms, spread over them."""
    fds = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in paths]
    piece = secrets.token_bytes(piece_bytes)
    slices = [fds[part::10] for part in range(10)]
    began_s, turn = time.monotonic(), 0
    while not over.is_set():
        for fd in slices[turn % 10]:
            os.write(fd, piece)
        turn += 1
        time.sleep(max(0.0, began_s + turn * CHUNK_MS / 10_000 - time.monotonic()))


def seal_only(recordings: list[Recording], seconds: float) -> float:
    """Share of a core. What is sealed counts as taken at once, and its audio is freed."""
    gatherer = Gatherer(len(recordings) * SEALED)
    sealed = 0
    for part_s in (WARM_S, seconds):
        cpu_s, began_s, sealed = time.process_time(), time.monotonic(), 0
        before = written(recordings)
        while (now_s := time.monotonic()) < began_s + part_s:
            frames, _ = gatherer.gather(recordings, begin_all=False)
            sealed += sum(len(f.data) // SEALED for f in frames if isinstance(f, Chunks))
            for recording in recordings:
                recording.begun, recording.acked = True, recording.next
                recording.forget()
            time.sleep(max(0.0, now_s + TICK_S - time.monotonic()))
    wall_s = time.monotonic() - began_s
    cpu_s = time.process_time() - cpu_s
    of_s = len(recordings) * wall_s * recordings[0].memo.layout.step
    taken_share = _checked(sealed, written(recordings) - before, of_s)
    return cpu_s / wall_s / taken_share


def written(recordings: list[Recording]) -> int:
    return sum(recording.files.audio.size() for recording in recordings)


def _checked(chunks: int, came_bytes: int, call_seconds: float) -> float:
    """What was taken, as a share of what so many seconds of calls are: on a busy machine the writer
    is late. Raises where what came piled up."""
    if chunks < 0.5 * came_bytes / CHUNK:
        raise RuntimeError(f"{chunks} chunks of {came_bytes} bytes: fell behind")
    return chunks * CHUNK / (call_seconds * 32_000)


async def with_shipping(
    place: Path, folder: Path, recordings: list[Recording], seconds: float
) -> float:
    (place / "secret").write_text("none\n")
    (place / "state").mkdir()
    config = parse(CONFIG, str(place / "pbxctl.yaml"))
    renew_due(config, dt.datetime.now(dt.UTC))
    sink = mp.get_context("spawn").Process(target=_sink, args=(str(place),), daemon=True)
    sink.start()
    shipping = Shipping(config, "n")
    lost: list[str] = []
    openings = Openings(place / "open")
    empty = folder / "n"
    empty.mkdir()
    recorder = Recorder(
        "n", empty, Spool(place / "spool", 1 << 30), openings, shipping,
        alarm=lost.append, stop=lambda _: None,
    )  # fmt: skip
    recorder.live = {recording.id: recording for recording in recordings}
    running = asyncio.create_task(recorder.run())
    try:
        await asyncio.sleep(2 * WARM_S)
        cpu_s, began_s = time.process_time(), time.monotonic()
        before = sum(recording.acked for recording in recordings)
        came = written(recordings)
        await asyncio.sleep(seconds)
        wall_s = time.monotonic() - began_s
        share = (time.process_time() - cpu_s) / wall_s
        taken = sum(recording.acked for recording in recordings) - before
        if lost:
            raise RuntimeError(f"recordings were lost: {lost[:3]}")
        return share / _checked(taken, written(recordings) - came, len(recordings) * wall_s)
    finally:
        running.cancel()
        await shipping.close()
        sink.terminate()
        sink.join()


def _sink(place: str) -> None:
    """Takes everything, answers for it, keeps nothing."""
    config = parse(CONFIG, str(Path(place) / "pbxctl.yaml"))
    context: ssl.SSLContext = contexts.server(config, "vault", clients="sip").context
    held: dict[str, int] = {}

    async def take(request: web.Request) -> web.Response:
        named: dict[str, int] = {}
        for frame in wire.frames(await request.read()):
            if isinstance(frame, Chunks):
                held[frame.recording] = frame.first + len(frame.data) // SEALED
            named[frame.recording] = held.get(frame.recording, 0)
        acks = [Ack(recording, after, State.OPEN) for recording, after in named.items()]
        return web.Response(body=wire.encode(acks))

    app = web.Application(client_max_size=wire.REQUEST_MAX_BYTES)
    app.router.add_post("/v1/ingest", take)
    host, port = SINK.split(":")
    web.run_app(app, host=host, port=int(port), ssl_context=context, print=None, access_log=None)
