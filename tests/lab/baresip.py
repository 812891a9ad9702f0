"""A real phone: baresip, in the lab root by chroot, steered over its ctrl_tcp.

What it says into a call is a tone of its own (a WAV file), what it hears is recorded; `tone_heard`
says how much of the other side's tone is in the recording.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.lab.node import Node, write_secret
from tests.lab.run import Run
from tests.lab.until import until

CONTROL_PORT = 4444
RATE = 8000
TONE_S = 4.0
MODULES = "/usr/lib/baresip/modules"


class Baresip(Node):
    """files: what `pbxctl phones add` made, "baresip/accounts" and "baresip/config" among it.

    tone_hz: what it says. events: every event that baresip told, oldest first.
    """

    def __init__(
        self, run: Run, name: str, address: str, files: Mapping[str, str], *, tone_hz: int
    ) -> None:
        super().__init__(run, name, address)
        self.tone_hz = tone_hz
        self.events: list[dict[str, Any]] = []
        self.heard = self.folder / "heard.wav"
        self.said = self.folder / "said.wav"
        self._link: socket.socket | None = None
        self._unread = b""
        write_tone(self.said, tone_hz)
        self.put(files)

    def put(self, files: Mapping[str, str]) -> None:
        """Other accounts, read at the next start."""
        home = self.run.inside(self.folder)
        own = files["baresip/config"].replace("\tca.pem", f"\t{home}/ca.pem")
        write_secret(self.folder / "ca.pem", files.get("ca.pem", ""))
        # u-law alone, so that a listener knows what a phone's tone looks like on the wire
        accounts = files["baresip/accounts"].replace("\n", ";audio_codecs=PCMU/8000/1\n")
        write_secret(self.folder / "accounts", accounts)
        write_secret(
            self.folder / "config",
            own
            + f"""
module_path {MODULES}
sip_listen {self.address}:0
net_interface {self.address}
audio_source aufile,{home}/said.wav
audio_player aufile,{home}/heard.wav
audio_alert aufile,{home}/ring.wav
ausrc_srate {RATE}
auplay_srate {RATE}
ausrc_channels 1
auplay_channels 1
module aufile.so
module_app ctrl_tcp.so
ctrl_tcp_listen {self.address}:{CONTROL_PORT}
rtp_ports 10000-10100
""",
        )

    def command(self) -> list[str]:
        home = str(self.run.inside(self.folder))
        return ["chroot", str(self.run.root), "baresip", "-f", home, "-v"]

    def launch(self) -> None:
        self._hang_up_link()
        self.events.clear()
        self.log.unlink(missing_ok=True)
        super().launch()

    def is_ready(self) -> bool:
        try:
            self._link = socket.create_connection((self.address, CONTROL_PORT), timeout=0.3)
        except OSError:
            return False
        self._unread = b""
        return True

    def kill(self) -> None:
        self._hang_up_link()
        super().kill()

    def _hang_up_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def tell(self, command: str, params: str = "") -> None:
        """One command of baresip's menu; what follows from it is in `events`."""
        assert self._link is not None
        body = json.dumps({"command": command, "params": params}).encode()
        self._link.sendall(b"%d:%s," % (len(body), body))

    def listen(self) -> None:
        """Reads what baresip has told since."""
        assert self._link is not None
        self._link.settimeout(0.02)
        try:
            while data := self._link.recv(65536):
                self._unread += data
        except TimeoutError:
            pass
        while b":" in self._unread:
            size, _, rest = self._unread.partition(b":")
            if len(rest) <= int(size):
                break
            message = json.loads(rest[: int(size)])
            self._unread = rest[int(size) + 1 :]
            if message.get("event"):
                self.events.append(message)

    def saw(self, kind: str, since: int = 0) -> dict[str, Any] | None:
        """The first event of a kind ("REGISTER_OK", "CALL_ESTABLISHED", …) after the n-th."""
        self.listen()
        return next((e for e in self.events[since:] if e.get("type") == kind), None)

    def wait(self, kind: str, timeout_s: float, since: int = 0) -> dict[str, Any]:
        try:
            found = until(lambda: self.saw(kind, since), timeout_s, f"{self.name}: {kind}")
        except TimeoutError as late:
            kinds = [str(e.get("type")) + " " + str(e.get("param", "")) for e in self.events]
            raise TimeoutError(f"{late}; told: {kinds}\n{self.log_end(400)[:6000]}") from None
        assert found is not None
        return found

    def wait_registered(self, timeout_s: float = 10) -> None:
        # by the log: the first REGISTER may be answered before we listen
        try:
            until(lambda: "} 200 OK (" in self.log_end(200), timeout_s, "registered")
        except TimeoutError as late:
            raise TimeoutError(f"{self.name}: {late}\n{self.log_end(400)[:6000]}") from None

    def dial(self, number: str) -> None:
        self.tell("dial", number)

    def answer(self, timeout_s: float = 8, since: int = 0) -> None:
        """Waits for a call to ring, and takes it."""
        self.wait("CALL_INCOMING", timeout_s, since)
        self.tell("accept")

    def hangup(self) -> None:
        self.tell("hangup")

    def tone_heard(self, tone_hz: int) -> float:
        """Share of the loudest second of the recording that is this tone, 0 to 1."""
        return tone_share(self.heard, tone_hz)

    def forget_audio(self) -> None:
        self.heard.unlink(missing_ok=True)


def write_tone(path: Path, tone_hz: int) -> None:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        step = 2 * math.pi * tone_hz / RATE
        samples = (round(9000 * math.sin(step * i)) for i in range(int(RATE * TONE_S)))
        out.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))


def tone_share(path: Path, tone_hz: int) -> float:
    """By Goertzel's algorithm over windows of 0.25 s: the best window's share of energy."""
    if not path.exists():
        return 0.0
    raw = path.read_bytes()[44:]  # a file that is being written has no length in its header yet
    count = len(raw) // 2
    samples = struct.unpack(f"<{count}h", raw[: 2 * count])
    window = RATE // 4
    best = 0.0
    for start in range(0, count - window, window // 2):
        part = samples[start : start + window]
        energy = sum(s * s for s in part)
        if energy < window * 100 * 100:  # silence
            continue
        factor = 2 * math.cos(2 * math.pi * tone_hz / RATE)
        one = two = 0.0
        for sample in part:
            one, two = sample + factor * one - two, one
        power = one * one + two * two - factor * one * two
        best = max(best, 2 * power / (window * energy))
    return min(best, 1.0)


def wait_tone(phone: Baresip, tone_hz: int, timeout_s: float = 6) -> float:
    """Waits until the phone has heard the tone clearly; the share."""
    deadline = time.monotonic() + timeout_s
    while (share := phone.tone_heard(tone_hz)) < 0.8 and time.monotonic() < deadline:
        time.sleep(0.2)
    return share
