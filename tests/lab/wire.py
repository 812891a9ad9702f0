"""What a listener on the wire sees: captured by tshark on loopback, read back as bytes."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.run import Run
from tests.lab.sipp import ulaw_of
from tests.lab.until import until

FRAME = 160  # 20 ms of G.711
# not wherever the words stand: the event socket tells of messages, behind stunnel on loopback
SIP_LINE = re.compile(rb"^(?:SIP/2\.0 \d{3} |[A-Z]+ sips?:\S+ SIP/2\.0)[^\r]*", re.MULTILINE)
HEADER = 12  # RTP without extension or contributors


@dataclass
class Seen:
    """Filled at the end of the capture. udp, tcp: payloads, in order; senders: of each of udp."""

    udp: list[bytes] = field(default_factory=list)
    senders: list[str] = field(default_factory=list)
    tcp: list[bytes] = field(default_factory=list)

    def media(self, senders: Collection[str] = ()) -> list[bytes]:
        """Payloads of RTP packets of a G.711 frame or more, with whatever a cipher has added.

        senders: addresses whose packets count; of everybody where there are none.
        """
        return [
            p[HEADER:]
            for p, sender in zip(self.udp, self.senders, strict=True)
            if p[:1] == b"\x80" and len(p) >= HEADER + FRAME and (sender in senders or not senders)
        ]

    def readable(self, speech: set[bytes], senders: Collection[str] = ()) -> int:
        """How many media packets carry a stretch of the speech as it is."""
        media = self.media(senders)
        return sum(any(p[i : i + 40] in speech for i in range(0, 120, 40)) for p in media)

    def sip_lines(self) -> list[bytes]:
        """First lines of SIP messages that anybody can read."""
        return [line[0] for p in (*self.udp, *self.tcp) for line in SIP_LINE.finditer(p)]


@contextlib.contextmanager
def listening(run: Run, addresses: list[str]) -> Iterator[Seen]:
    """Captures between `addresses` for as long as the body runs."""
    path = run.folder / f"wire-{len(list(run.folder.glob('wire-*')))}.pcap"
    hosts = " or ".join(f"host {address}" for address in addresses)
    log = path.with_suffix(".log")
    process = run.spawn(
        ["tshark", "-q", "-i", "lo", "-f", hosts, "-w", str(path)], log=log, cwd=run.folder
    )
    seen = Seen()
    try:
        until(lambda: path.exists() and path.stat().st_size > 0, 10, "tshark captures")
        yield seen
        before = -1

        def quiet() -> bool:
            nonlocal before
            now = path.stat().st_size
            still, before = now == before, now
            return still

        until(quiet, 5, "the capture is written")
    finally:
        process.terminate()
        process.wait(10)
    packets = _payloads(path, "udp.payload")
    seen.udp = [payload for _, payload in packets]
    seen.senders = [sender for sender, _ in packets]
    seen.tcp = [payload for _, payload in _payloads(path, "tcp.payload")]


def _payloads(path: Path, name: str) -> list[tuple[str, bytes]]:
    """Of each packet with one: who sent it, and the payload."""
    told = subprocess.run(
        ["tshark", "-r", str(path), "-T", "fields", "-e", "ip.src", "-e", name],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = (line.partition("\t") for line in told.stdout.splitlines())
    return [(sender, bytes.fromhex(raw.replace(":", ""))) for sender, _, raw in found if raw]


def stretches(speech: Path) -> set[bytes]:
    """Every 5 ms of a WAV as u-law that is no silence, at all offsets."""
    law = ulaw_of(speech)
    found = {law[i : i + 40] for i in range(0, len(law) - 40)}
    return {s for s in found if len(set(s)) > 8}
