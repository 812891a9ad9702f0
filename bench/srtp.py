"""CPU of a call with SRTP and TLS against a plain one on the same Asterisk, attestation, phones.

One Asterisk answers and echoes. Two others call it by turns, one by UDP and RTP, one by TLS 1.3 and
SRTP (SDES), with speech that goes both ways. CPU is what /proc says of the answering Asterisk over
a window of calls, less what it takes when idle. Set-up is timed at the calling side, from Originate
to the answer. Attestation runs all the while, by pbxctl's own driver, and is timed by Redis: from
the call's answer to its attestation in the picture.

The figures hold for G.711 with echo, where moving packets is nearly all that an Asterisk does; with
transcoding or recording the ratio is nearer to 1. The figures of bench/phones.py follow.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from bench import phones
from bench.figures import Figure, Report, middle, percentile
from bench.processes import whole_cpu_s
from controller.errors import PbxctlError
from controller.fleet.state import CallRecord
from controller.model import CallAnswered, OriginateRequest
from controller.pbx.asterisk import AsteriskDriver
from tests.lab.asterisk import AMI_PORT, Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.lab import Lab
from tests.lab.services import Redis

RATE_PER_S = 4
HOLD_S = 6.0
TLS_PORT = 5061
ECHO, SPEECH = "9196", "9664"


@dataclass(frozen=True)
class Window:
    """cpu_ms: of the answering Asterisk, a call. setup_ms: of each call that was answered."""

    cpu_ms: float
    setup_ms: list[float]
    calls: int


def _certificate(node: Asterisk) -> None:
    """A key and a certificate of its own in the node's etc/."""
    etc = node.folder / "etc"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", f"/CN={node.address}",
         "-keyout", etc / "sip.key", "-out", etc / "sip.pem"],
        check=True, capture_output=True,
    )  # fmt: skip


def _configure(node: Asterisk, endpoints: Sequence[tuple[str, bool, str]]) -> None:
    """endpoints: name, whether secured, and whose address calls by it."""
    home = node.settings.home / "etc"
    text = f"""[global]
type = global
[udp]
type = transport
protocol = udp
bind = {node.address}:5060
[tls]
type = transport
protocol = tls
bind = {node.address}:{TLS_PORT}
method = tlsv1_3
cert_file = {home}/sip.pem
priv_key_file = {home}/sip.key
"""
    for name, secured, match in endpoints:
        text += f"""[{name}]
type = endpoint
context = trunk
transport = {"tls" if secured else "udp"}
disallow = all
allow = ulaw
direct_media = no
media_address = {node.address}
bind_rtp_to_media_address = yes
media_encryption = {"sdes" if secured else "no"}
[{name}]
type = identify
endpoint = {name}
match = {match}
"""
    _certificate(node)
    (node.folder / "etc" / "pjsip.conf").write_text(text)
    node.restart()


class Caller:
    """A calling Asterisk under pbxctl's driver."""

    def __init__(self, node: Asterisk, target: str) -> None:
        self.driver = AsteriskDriver(node.address, AMI_PORT, "pbxctl", node.secret)
        self._target = target
        self._answered: dict[str, asyncio.Future[float]] = {}

    async def watch(self) -> None:
        async for batch in self.driver.watch():
            for event in batch:
                if isinstance(event, CallAnswered):
                    self._future(event.pbx_id).set_result(time.monotonic())

    def _future(self, pbx_id: str) -> asyncio.Future[float]:
        loop = asyncio.get_running_loop()
        return self._answered.setdefault(pbx_id, loop.create_future())

    async def call(self, number: int) -> float | None:
        """One call, held HOLD_S; its set-up time in ms, None when it was not answered."""
        begun = time.monotonic()
        request = OriginateRequest(self._target, "trunk", SPEECH, f"bench-{number}")
        pbx_id = await self.driver.originate(request)
        try:
            async with asyncio.timeout(5):
                answered = await self._future(pbx_id)
        except TimeoutError:
            return None
        await asyncio.sleep(HOLD_S)
        await self.driver.hangup(pbx_id)
        return (answered - begun) * 1000

    async def window(self, node: Asterisk, seconds: float) -> Window:
        await self.driver.connect()
        watching = asyncio.create_task(self.watch())
        before, begun = whole_cpu_s(node.pid), time.monotonic()
        calls = []
        for number in range(round(seconds * RATE_PER_S)):
            await asyncio.sleep(max(0.0, begun + number / RATE_PER_S - time.monotonic()))
            calls.append(asyncio.create_task(self.call(number)))
        setups = [ms for ms in await asyncio.gather(*calls) if ms is not None]
        spent_s, took_s = whole_cpu_s(node.pid) - before, time.monotonic() - begun
        spent_s -= await _idle_share(node.pid) * took_s
        await self.driver.close()
        with suppress(PbxctlError):
            await watching
        return Window(spent_s / len(calls) * 1000, setups, len(calls))


async def _idle_share(pid: int) -> float:
    """CPU seconds a second without calls."""
    await asyncio.sleep(0.5)
    before = whole_cpu_s(pid)
    await asyncio.sleep(2)
    return (whole_cpu_s(pid) - before) / 2


def _attest_ms(server: Redis) -> tuple[list[float], int]:
    """Answer to attestation of each call known, and how many answered calls have none."""
    client: Any = redis.Redis.from_url(server.url)
    records = [
        msgspec.msgpack.decode(raw, type=CallRecord)
        for key in client.scan_iter("*:call:*")
        if (raw := client.get(key))
    ]
    answered = [r for r in records if r.answered_ms]
    times = [float(r.security.checked_ms - r.answered_ms) for r in answered if r.security]
    return times, len(answered) - len(times)


def run(*, quick: bool) -> Report:
    calls, made = _calls(quick), phones.run(quick=quick)
    setup = f"{calls.setup}; then phones: {made.setup}"
    return Report("srtp", quick, setup, (*calls.figures, *made.figures))


def _calls(quick: bool) -> Report:
    rounds, seconds = (1, 10.0) if quick else (3, 20.0)
    plain: list[Window] = []
    secure: list[Window] = []
    with Lab() as lab:
        node, by_udp, by_tls = (lab.asterisk(name) for name in ("node", "by-udp", "by-tls"))
        _configure(node, [("plain", False, by_udp.address), ("secure", True, by_tls.address)])
        _configure(by_udp, [("trunk", False, node.address)])
        _configure(by_tls, [("trunk", True, node.address)])
        server = lab.redis()
        media = {"peers": {"secure": "require", "plain": "prefer"}}
        with LabFleet(lab, {node: "east"}, server, settings={"media": media}) as fleet:
            fleet.start("driver")
            fleet.until_active()
            for _ in range(rounds):
                plain.append(_window(by_udp, node, f"PJSIP/trunk/sip:{ECHO}@{node.sip}", seconds))
                uri = f"sip:{ECHO}@{node.address}:{TLS_PORT};transport=tls"
                secure.append(_window(by_tls, node, f"PJSIP/trunk/{uri}", seconds))
            attest_ms, missing = _attest_ms(server)
    pairs = zip(secure, plain, strict=True)
    setups = {
        name: [ms for window in windows for ms in window.setup_ms]
        for name, windows in (("plain", plain), ("secure", secure))
    }
    lost = sum(w.calls - len(w.setup_ms) for w in (*plain, *secure))
    return Report(
        "srtp",
        quick,
        f"{rounds} rounds of {seconds:g} s, {RATE_PER_S} calls/s held {HOLD_S:g} s, G.711, echo",
        (
            Figure("cpu_ratio", middle([s.cpu_ms / p.cpu_ms for s, p in pairs]),
                   "CPU of a call with SRTP and TLS against a plain one, same Asterisk"),
            Figure("plain_cpu_ms", middle([w.cpu_ms for w in plain]), "CPU a plain call"),
            Figure("secure_cpu_ms", middle([w.cpu_ms for w in secure]), "CPU a secured call"),
            Figure("plain_setup_p50_ms", percentile(setups["plain"], 0.5), "Originate to answer"),
            Figure("plain_setup_p99_ms", percentile(setups["plain"], 0.99), "the same"),
            Figure("secure_setup_p50_ms", percentile(setups["secure"], 0.5), "the same, secured"),
            Figure("secure_setup_p99_ms", percentile(setups["secure"], 0.99), "the same"),
            Figure("attest_p50_ms", percentile(attest_ms, 0.5), "answer to attestation"),
            Figure("attest_p99_ms", percentile(attest_ms, 0.99), "the same", "≤ 500"),
            Figure("attested_calls", len(attest_ms), "calls that this is of"),
            Figure("not_attested", missing, "answered calls without one", "≤ 0"),
            Figure("lost_calls", lost, "calls that were not answered", "≤ 0"),
        ),
    )  # fmt: skip


def _window(caller: Asterisk, node: Asterisk, target: str, seconds: float) -> Window:
    async def once() -> Window:
        return await Caller(caller, target).window(node, seconds)

    return asyncio.run(once())
