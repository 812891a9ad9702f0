"""Our ESL and AMI readers beside stock greenswitch and panoramisk, on the same bytes.

Both sides read real TCP in a process of their own, in turn. esl_ratio is like for like: up to a
handler that looks at one header of each event. All other figures of ours are of the whole driver:
framing, decoding, the picture of the calls, the queue to the worker; the stock side does less.

Rates are events over the reader's own CPU time: each reader is one busy thread, and a machine that
is shared with others falsifies only the time by the clock.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import streams
from bench.figures import Figure, Report, middle
from bench.streams import AmiServer, Stream
from tests.esl_server import EslServer

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Reading:
    """per_s: events on the wire per second of CPU; wall_per_s: of time. lost: of what came in."""

    per_s: float
    wall_per_s: float
    lost: int


def read_by(kind: str, stream: Stream) -> Reading:
    """Runs one reader on one stream. kind: as in readers.py."""
    new_server: Callable[[], EslServer | AmiServer]
    new_server = AmiServer if kind in ("ami", "panoramisk") else EslServer
    until = stream.means if kind in ("ami", "esl") else stream.events
    server = new_server()
    argv = [sys.executable, "-m", "bench.readers", kind, server.host, str(server.port), str(until)]
    with subprocess.Popen(
        argv, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        try:
            assert reader.stdin is not None
            assert reader.stdout is not None
            if reader.stdout.readline() != "ready\n":
                raise RuntimeError(f"{kind} did not log in")
            reader.stdin.write("go\n")
            reader.stdin.flush()
            server.frozen = True  # an answer to a ping must not fall into the middle of an event
            server.push(stream.data)
            told = json.loads(reader.stdout.readline())
        finally:
            reader.kill()
            server.close()
    share = told["events"] / until
    return Reading(
        stream.events * share / told["cpu_s"],
        stream.events * share / told["wall_s"],
        until - told["events"],
    )


def run(*, quick: bool) -> Report:
    calls = 300 if quick else 2000
    rounds = 2 if quick else 7
    plain, as_json = streams.freeswitch(calls, plain=True), streams.freeswitch(calls, plain=False)
    small = streams.asterisk(4 * calls)
    large = streams.asterisk(2 * calls, variables=streams.CHANNEL_VARIABLES)
    pairs = {
        "esl": ("esl-link", plain, "greenswitch", plain),
        "esl_driver": ("esl", as_json, "greenswitch", plain),
        "esl_driver_plain": ("esl", plain, "greenswitch", plain),
        "ami_small": ("ami", small, "panoramisk", small),
        "ami_large": ("ami", large, "panoramisk", large),
    }
    seen: dict[str, list[tuple[Reading, Reading]]] = {name: [] for name in pairs}
    for _ in range(rounds):
        for name, (ours, our_stream, stock, stock_stream) in pairs.items():
            pair = read_by(ours, our_stream), read_by(stock, stock_stream)
            seen[name].append(pair)
    ratio = {n: middle([a.per_s / b.per_s for a, b in got]) for n, got in seen.items()}
    lost = sum(a.lost for got in seen.values() for a, _ in got)
    figures = [
        Figure("esl_ratio", ratio["esl"], "our reader over greenswitch, same plain bytes", "≥ 4"),
        Figure("ami_ratio", min(ratio["ami_small"], ratio["ami_large"]),
               "our reader over panoramisk, same bytes, the lower of both sizes", "≥ 1"),
        Figure("events_lost", lost, "NodeEvents missing at the end of our readers' streams", "≤ 0"),
        Figure("esl_driver_ratio", ratio["esl_driver"],
               "our whole driver on these events as JSON, which it asks for, over greenswitch"),
        Figure("esl_driver_plain_ratio", ratio["esl_driver_plain"],
               "our whole driver on the plain bytes over greenswitch"),
        Figure("ami_ratio_small", ratio["ami_small"], "ami_ratio at ami_small_bytes"),
        Figure("ami_ratio_large", ratio["ami_large"], "ami_ratio at ami_large_bytes"),
    ]  # fmt: skip
    for name, got in seen.items():
        figures += [
            Figure(
                f"{name}_per_s", middle([a.per_s for a, _ in got]), "ours, events per CPU second"
            ),
            Figure(f"{name}_stock_per_s", middle([b.per_s for _, b in got]), "stock, the same"),
            Figure(
                f"{name}_wall_per_s", middle([a.wall_per_s for a, _ in got]), "ours, by the clock"
            ),
        ]
    sizes = {"esl": plain, "esl_driver": as_json, "ami_small": small, "ami_large": large}
    figures += [
        Figure(f"{n}_bytes", round(s.event_bytes), "mean event size") for n, s in sizes.items()
    ]
    stock_lost = sum(b.lost for got in seen.values() for _, b in got)
    figures.append(Figure("stock_events_lost", stock_lost, "of the stock libraries"))
    setup = (
        f"{rounds} rounds, ours and stock in turn, a recorded call's events {calls} times (AMI "
        f"{4 * calls} and {2 * calls}) with ids of their own"
    )
    return Report("events", quick, setup, tuple(figures))
