"""What a listener on the wire sees: captured by tshark on loopback, read back as bytes."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
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
    """Filled at the end of the capture. udp, tcp: payloads, in order."""

    udp: list[bytes] = field(default_factory=list)
    tcp: list[bytes] = field(default_factory=list)

    def media(self) -> list[bytes]:
        """Payloads of RTP packets of a G.711 frame or more, with whatever a cipher has added."""
        return [p[HEADER:] for p in self.udp if p[:1] == b"\x80" and len(p) >= HEADER + FRAME]

    def readable(self, speech: set[bytes]) -> int:
        """How many media packets carry a stretch of the speech as it is."""
        return sum(any(p[i : i + 40] in speech for i in range(0, 120, 40)) for p in self.media())

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
    seen.udp = _payloads(path, "udp.payload")
    seen.tcp = _payloads(path, "tcp.payload")


def _payloads(path: Path, name: str) -> list[bytes]:
    told = subprocess.run(
        ["tshark", "-r", str(path), "-T", "fields", "-e", name],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [bytes.fromhex(line.replace(":", "")) for line in told.stdout.split()]


def stretches(speech: Path) -> set[bytes]:
    """Every 5 ms of a WAV as u-law that is no silence, at all offsets."""
    law = ulaw_of(speech)
    found = {law[i : i + 40] for i in range(0, len(law) - 40)}
    return {s for s in found if len(set(s)) > 8}
