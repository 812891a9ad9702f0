"""SIPp as the caller: real INVITEs, real RTP, and what became of each call.

The scenario logs one line a step and call, and `parse` makes a `CallsResult` of them. It follows
Record-Route, so it works through Kamailio; it takes a BYE from the far end during the hold.
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import wave
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from tests.lab.run import Run
from tests.lab.until import until

# Every registered code (IANA, SIP Parameters): one that SIPp is not told of would end the call
# without an outcome.
REFUSALS = (
    *(300, 301, 302, 305, 380, *range(400, 411), *range(412, 418)),
    *(420, 421, 422, 423, 424, 425, 428, 429, 430, 433, 436, 437, 438, 439, 440, 469, 470),
    *(*range(478, 490), 491, 493, 494, *range(500, 506), 513, 555, 580, 600, 603, 604),
    *(606, 607, 608),
)
SPEECH = "usr/share/asterisk/sounds/*/demo-congrats.wav"  # "en" is a link that leaves the root
BYE_TIMEOUT_MS = 3000


@dataclass(frozen=True)
class CallOutcome:
    """code: of the final response to INVITE, 0 when none came. setup_ms: INVITE to that response,
    NaN for a call that SIPp broke off.

    completed: answered and ended in order, by either side. hung_up_by_peer: the far end's BYE
    came before the hold was over. retry_after_s: of a refusal, None when it had none.
    """

    call_id: str
    code: int
    setup_ms: float
    completed: bool
    hung_up_by_peer: bool
    retry_after_s: int | None

    @property
    def answered(self) -> bool:
        return self.code == 200


@dataclass(frozen=True)
class CallsResult:
    calls: tuple[CallOutcome, ...]

    @property
    def attempted(self) -> int:
        return len(self.calls)

    @property
    def answered(self) -> int:
        return sum(call.answered for call in self.calls)

    @property
    def failed(self) -> int:
        return self.attempted - self.answered

    @property
    def completed(self) -> int:
        return sum(call.completed for call in self.calls)

    @property
    def codes(self) -> dict[int, int]:
        """Final response to INVITE (0: none came) to how many calls got it."""
        return dict(Counter(call.code for call in self.calls))

    def setup_ms(self, share: float) -> float:
        """Time from INVITE to 200 that `share` (0.5: p50, 0.99: p99) of the answered calls kept."""
        times = sorted(call.setup_ms for call in self.calls if call.answered)
        if not times:
            return math.nan
        return times[min(len(times) - 1, math.ceil(share * len(times)) - 1)]


@dataclass(frozen=True)
class CallPlan:
    """count calls to number@target, rate_per_s new ones a second, each held for hold_s.

    target: host:port. headers: added to each INVITE. answer_timeout_s: then the caller gives up
    with CANCEL. At most concurrent_max calls at a time; SIPp waits with the rest.
    """

    target: str
    number: str
    count: int
    rate_per_s: float
    hold_s: float
    audio: bool
    headers: Mapping[str, str]
    caller: str
    answer_timeout_s: float
    concurrent_max: int


class Calls:
    """SIPp at work. Leave it alone, ask for `result`, or `stop` it early."""

    def __init__(self, run: Run, folder: Path, address: str, plan: CallPlan) -> None:
        folder.mkdir()
        self.plan = plan
        self.address = address
        self._folder = folder
        self._console = folder / "console.log"
        self._outcomes = folder / "outcomes.log"
        inside = run.inside(folder)
        (folder / "scenario.xml").write_text(_scenario(plan, f"{inside}/speech.ulaw"))
        if plan.audio:
            (folder / "speech.ulaw").write_bytes(ulaw_of(speech_file(run.root)))
        argv = ["chroot", str(run.root), "sipp", plan.target]
        argv += ["-sf", f"{inside}/scenario.xml", "-s", plan.number]
        argv += ["-i", address, "-mi", address, "-p", "5060"]
        argv += ["-min_rtp_port", "30000", "-max_rtp_port", "49998"]
        argv += ["-m", str(plan.count), "-l", str(plan.concurrent_max)]
        # SIPp rounds rates below one a second down to none, hence the period.
        argv += ["-r", str(max(1, round(plan.rate_per_s * 10))), "-rp", "10000"]
        argv += ["-nostdin", "-aa", "-timer_resol", "5"]
        argv += ["-trace_logs", "-log_file", f"{inside}/outcomes.log"]
        argv += ["-trace_err", "-error_file", f"{inside}/errors.log"]
        self._process = run.spawn(argv, log=self._console, cwd=folder)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def so_far(self) -> CallsResult:
        """Calls that have an outcome by now; SIPp writes its log through."""
        return parse(self._log())

    def wait_answered(self, count: int, timeout_s: float = 10.0) -> None:
        """Until `count` calls have been answered, whether they still talk or not."""
        until(
            lambda: self.so_far().answered >= count or not self.running,
            timeout_s,
            f"{count} calls answered, {self.so_far()}",
        )
        if (seen := self.so_far()).answered < count:
            raise AssertionError(f"SIPp ended with {seen.codes}: {self._errors()}")

    def result(self, timeout_s: float | None = None) -> CallsResult:
        """Waits until all calls are over. Raises TimeoutError, the calls then go on."""
        if timeout_s is None:
            timeout_s = 20 + self.plan.count / self.plan.rate_per_s + self.plan.hold_s
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"SIPp not done within {timeout_s:g} s: {self.so_far()}") from None
        # 0: every call went as planned; 1: some did not; others: SIPp itself failed.
        if code not in (0, 1):
            raise RuntimeError(f"SIPp ended with {code}: {self._errors()}")
        return parse(self._log(), over=True)

    async def finished(self, timeout_s: float | None = None) -> CallsResult:
        return await asyncio.to_thread(self.result, timeout_s)

    def stop(self) -> CallsResult:
        """Ends SIPp and forgets its calls: no BYE is sent."""
        self._process.kill()
        self._process.wait()
        return parse(self._log(), over=True)

    def _log(self) -> str:
        return self._outcomes.read_text() if self._outcomes.exists() else ""

    def _errors(self) -> str:
        texts = [
            path.read_text(errors="replace")[-1500:]
            for path in (self._folder / "errors.log", self._console)
            if path.exists()
        ]
        return "\n".join(texts)


def speech_file(root: Path) -> Path:
    """30 s of speech, WAV, mono, 8 kHz, 16 bits."""
    return next(root.glob(SPEECH))


def parse(log: str, *, over: bool = False) -> CallsResult:
    """Reads the scenario's log lines `call-id|step|clock in ms|detail`.

    over: no more lines will come, so a call without a final response counts as one with code 0.
    """
    sent: dict[str, float] = {}
    final: dict[str, tuple[int, float, int | None]] = {}
    done: dict[str, str] = {}
    for line in log.splitlines():
        if line.count("|") != 3:
            continue  # the last line may still be on its way to the file
        call_id, step, clock, detail = line.split("|")
        if step == "sent":
            sent[call_id] = float(clock)
        elif step == "final":
            code, _, retry = detail.partition(" ")
            final[call_id] = (int(code), float(clock), int(retry) if retry.isdigit() else None)
        else:
            done[call_id] = step
    if over:
        for call_id in sent.keys() - final.keys():
            final[call_id] = (0, math.nan, None)
    return CallsResult(
        tuple(
            CallOutcome(
                call_id=call_id,
                code=code,
                setup_ms=clock - sent[call_id],
                completed=done.get(call_id) in ("completed", "peer-bye"),
                hung_up_by_peer=done.get(call_id) == "peer-bye",
                retry_after_s=retry,
            )
            for call_id, (code, clock, retry) in final.items()
        )
    )


def _log(step: str, detail: str = "") -> str:
    return f'<log message="[call_id]|{step}|[clock_tick]|{detail}"/>'


def _scenario(plan: CallPlan, audio_file: str) -> str:
    headers = "".join(f"\n{escape(k)}: {escape(v)}" for k, v in plan.headers.items())
    caller = escape(plan.caller)
    play = f'<nop><action><exec rtp_stream="{audio_file},-1,0"/></action></nop>'
    rest = "Contact: <sip:sipp@[local_ip]:[local_port]>\nMax-Forwards: 70\nContent-Length: 0\n"
    media_port = "[rtpstream_audio_port]" if plan.audio else "[media_port]"
    top = f"""Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:{caller}@[local_ip]:[local_port]>;tag=[pid]c[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>"""
    new = f"{top}\nCall-ID: [call_id]"
    within = f"{top}[peer_tag_param]\nCall-ID: [call_id]"
    # SIPp takes the timeout of the first of a row of optional messages.
    wait_bye = f'timeout="{BYE_TIMEOUT_MS}" ontimeout="lost"'
    wait_final = f'timeout="{round(plan.answer_timeout_s * 1000)}" ontimeout="gaveup"'
    refusals = "".join(
        f"""<recv response="{code}" optional="true" {wait_final} next="refused"><action>
<ereg regexp="[0-9]+" search_in="hdr" header="Retry-After:" assign_to="retry"/>
{_log("final", f"{code} [$retry]")}</action></recv>\n"""
        for code in REFUSALS
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<scenario name="caller">
<nop><action>{_log("sent")}</action></nop>
<send retrans="500"><![CDATA[
INVITE sip:[service]@[remote_ip]:[remote_port] SIP/2.0
{new}
CSeq: 1 INVITE
Contact: <sip:sipp@[local_ip]:[local_port]>
Max-Forwards: 70{headers}
Content-Type: application/sdp
Content-Length: [len]

v=0
o=sipp 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [media_ip]
t=0 0
m=audio {media_port} RTP/AVP 0
a=rtpmap:0 PCMU/8000
a=ptime:20
]]></send>
<recv response="100" optional="true" {wait_final}/>
<recv response="180" optional="true" {wait_final}/>
<recv response="183" optional="true" {wait_final}/>
{refusals}<recv response="200" rrs="true" {wait_final}>
<action>{_log("final", "200")}</action></recv>
<send><![CDATA[
ACK [next_url] SIP/2.0
{within}
[routes]
CSeq: 1 ACK
{rest}
]]></send>
{play if plan.audio else ""}
<recv request="BYE" timeout="{round(plan.hold_s * 1000)}" ontimeout="hangup"><action>
{_log("peer-bye")}</action></recv>
<send next="end"><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0

]]></send>
<label id="hangup"/>
<send retrans="500"><![CDATA[
BYE [next_url] SIP/2.0
{within}
[routes]
CSeq: 2 BYE
{rest}
]]></send>
<recv response="100" optional="true" {wait_bye}/>
<recv response="200" {wait_bye} next="end"><action>
{_log("completed")}</action></recv>
<label id="lost"/>
<nop next="end"><action>{_log("lost")}</action></nop>
<label id="refused"/>
<send next="end"><![CDATA[
ACK sip:[service]@[remote_ip]:[remote_port] SIP/2.0
[last_Via:]
{within}
CSeq: 1 ACK
{rest}
]]></send>
<label id="gaveup"/>
<nop><action>{_log("final", "0")}</action></nop>
<send><![CDATA[
CANCEL sip:[service]@[remote_ip]:[remote_port] SIP/2.0
[last_Via:]
{new}
CSeq: 1 CANCEL
{rest}
]]></send>
<recv response="200" optional="true" timeout="1000" ontimeout="end"/>
<recv response="487" timeout="1000" ontimeout="end"/>
<send><![CDATA[
ACK sip:[service]@[remote_ip]:[remote_port] SIP/2.0
[last_Via:]
{within}
CSeq: 1 ACK
{rest}
]]></send>
<label id="end"/>
</scenario>
"""


def ulaw_of(path: Path) -> bytes:
    """A mono WAV of 8 kHz, 16 bits as raw G.711 u-law."""
    with wave.open(str(path)) as source:
        samples = array("h", source.readframes(source.getnframes()))
    return bytes(_ULAW[sample & 0xFFFF] for sample in samples)


def _ulaw_byte(sample: int) -> int:
    """ITU-T G.711: sign, 3 bits of segment, 4 bits of step, all inverted."""
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample), 32635) + 132
    segment = magnitude.bit_length() - 8
    return ~(sign | segment << 4 | (magnitude >> (segment + 3)) & 0x0F) & 0xFF


_ULAW = bytes(_ulaw_byte(s - 0x10000 if s & 0x8000 else s) for s in range(0x10000))
