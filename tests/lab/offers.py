"""SIPp as a caller with SDP of its own: what it offers first, and in a re-INVITE.

    caller = Offers(lab, node, "9664", sdes(), then=plain())
    caller.until("re-invited"); caller.outcome() -> Outcome(code=200, second=488, ended_by="peer")

No media is sent unless `rtp` is set: a PBX believes the SDP.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.lab import Lab
from tests.lab.sipp import REFUSALS, speech_file, ulaw_of
from tests.lab.until import until

AES_CM_128 = "AES_CM_128_HMAC_SHA1_80"
KEY_AND_SALT_BYTES = 30  # of AES_CM_128


@dataclass(frozen=True)
class Offer:
    """profile: of the m line. crypto: values of a=crypto lines."""

    profile: str
    crypto: tuple[str, ...] = ()


def plain() -> Offer:
    return Offer("RTP/AVP")


def inline(bytes_: int = KEY_AND_SALT_BYTES) -> str:
    return "inline:" + base64.b64encode(secrets.token_bytes(bytes_)).decode()


def sdes(suite: str = AES_CM_128, key: str | None = None, profile: str = "RTP/SAVP") -> Offer:
    return Offer(profile, (f"1 {suite} {key or inline()}",))


@dataclass(frozen=True)
class Outcome:
    """code, second: final response to the INVITE and the re-INVITE, 0 for none yet.

    ended_by: "peer" for the PBX's BYE, "caller" for ours, "" while the call is up or refused.
    reason: the Reason header of the PBX's BYE.
    """

    code: int = 0
    second: int = 0
    ended_by: str = ""
    reason: str = ""
    call_id: str = field(default="", compare=False)


class Offers:
    """One call in the background, held `hold_s` after the last offer unless the PBX ends it."""

    def __init__(
        self,
        lab: Lab,
        target: str,
        number: str,
        first: Offer,
        *,
        then: Offer | None = None,
        then_after_s: float = 1.5,
        hold_s: float = 5.0,
        rtp: bool = False,
        headers: Sequence[str] = (),
    ) -> None:
        run = lab.run
        self.address = lab.address()
        folder = run.folder / f"offers-{self.address}"
        folder.mkdir()
        self.folder = folder
        inside = run.inside(folder)
        (folder / "scenario.xml").write_text(
            _scenario(first, then, then_after_s, hold_s, f"{inside}/a.ulaw" if rtp else "", headers)
        )
        if rtp:
            (folder / "a.ulaw").write_bytes(ulaw_of(speech_file(run.root)))
        self._log = folder / "steps.log"
        argv = ["chroot", str(run.root), "sipp", target, "-sf", f"{inside}/scenario.xml"]
        argv += ["-s", number, "-i", self.address, "-mi", self.address, "-p", "5060", "-m", "1"]
        argv += ["-min_rtp_port", "30000", "-max_rtp_port", "49998", "-nostdin", "-aa"]
        argv += ["-trace_logs", "-log_file", f"{inside}/steps.log"]
        argv += ["-trace_err", "-error_file", f"{inside}/errors.log"]
        self.process = run.spawn(argv, log=folder / "console.log", cwd=folder)

    def outcome(self) -> Outcome:
        """As far as it has come by now."""
        steps: dict[str, str] = {}
        for line in self._log.read_text().splitlines() if self._log.exists() else ():
            step, _, detail = line.partition("|")
            steps[step] = detail
        return Outcome(
            code=int(steps.get("first", "0")),
            second=int(steps.get("second", "0")),
            ended_by=steps.get("ended", ""),
            reason=steps.get("reason", ""),
            call_id=steps.get("call", ""),
        )

    def until(self, what: str, timeout_s: float = 8.0) -> Outcome:
        """Waits for "answered", "re-invited" (whatever the answer), "ended" or "over"."""

        def there() -> bool:
            now = self.outcome()
            return {
                "answered": now.code > 0,
                "re-invited": now.second > 0,
                "ended": bool(now.ended_by),
                "over": self.process.poll() is not None,
            }[what]

        until(there, timeout_s, f"{what}, {self.outcome()} {self._errors()}")
        return self.outcome()

    def _errors(self) -> str:
        file: Path = self.folder / "errors.log"
        return file.read_text(errors="replace")[-800:] if file.exists() else ""


def _sdp(offer: Offer, version: int, rtp: bool) -> str:
    crypto = "".join(f"a=crypto:{value}\n" for value in offer.crypto)
    port = "[rtpstream_audio_port]" if rtp else "[media_port]"
    return f"""v=0
o=offers 1 {version} IN IP4 [local_ip]
s=-
c=IN IP4 [media_ip]
t=0 0
m=audio {port} {offer.profile} 0
a=rtpmap:0 PCMU/8000
{crypto}a=ptime:20"""


def _log(step: str, detail: str) -> str:
    return f'<action><log message="{step}|{detail}"/></action>'


def _finals(step: str, timeout_ms: int, refused: str) -> str:
    lost = f'timeout="{timeout_ms}" ontimeout="end"'
    codes = "".join(
        f'<recv response="{code}" optional="true" {lost} next="{refused}">{_log(step, str(code))}'
        "</recv>\n"
        for code in REFUSALS
    )
    return (
        "".join(f'<recv response="{c}" optional="true" {lost}/>\n' for c in (100, 180, 183))
        + codes
        + f'<recv response="200" rrs="true" {lost}>{_log(step, "200")}</recv>'
    )


def _scenario(
    first: Offer,
    then: Offer | None,
    then_after_s: float,
    hold_s: float,
    audio: str,
    headers: Sequence[str],
) -> str:
    top = """Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:offers@[local_ip]:[local_port]>;tag=[pid]o[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>"""
    more = "".join(f"{h}\n" for h in headers)
    rest = "Contact: <sip:offers@[local_ip]:[local_port]>\nMax-Forwards: 70\nContent-Length: 0\n"
    body = "Content-Type: application/sdp\nContent-Length: [len]\n"
    contact = "Contact: <sip:offers@[local_ip]:[local_port]>\nMax-Forwards: 70\n"
    play = f'<nop><action><exec rtp_stream="{audio},-1,0"/></action></nop>' if audio else ""
    ended = """<action><ereg regexp=".*" search_in="hdr" header="Reason:" assign_to="why"/>
<log message="reason|[$why]"/><log message="ended|peer"/></action>"""
    bye_200 = """<send next="end"><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0

]]></send>"""
    ack = f"""<send><![CDATA[
ACK [next_url] SIP/2.0
{top}[peer_tag_param]
Call-ID: [call_id]
CSeq: %d ACK
{rest}
]]></send>"""
    second = ""
    if then is not None:
        second = f"""<recv request="BYE" timeout="{round(then_after_s * 1000)}" ontimeout="change">
{ended}</recv>
{bye_200}
<label id="change"/>
<send retrans="500"><![CDATA[
INVITE [next_url] SIP/2.0
{top}[peer_tag_param]
Call-ID: [call_id]
CSeq: 2 INVITE
{contact}{body}
{_sdp(then, 2, bool(audio))}
]]></send>
{_finals("second", 4000, "kept")}
{ack % 2}
<nop next="hold"/>
<label id="kept"/>
{ack % 2}
<label id="hold"/>
"""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<scenario name="offers">
<nop><action><log message="call|[call_id]"/></action></nop>
<send retrans="500"><![CDATA[
INVITE sip:[service]@[remote_ip]:[remote_port] SIP/2.0
{top}
Call-ID: [call_id]
CSeq: 1 INVITE
{more}{contact}{body}
{_sdp(first, 1, bool(audio))}
]]></send>
{_finals("first", 8000, "refused")}
{ack % 1}
{play}
{second}
<recv request="BYE" timeout="{round(hold_s * 1000)}" ontimeout="hangup">
{ended}</recv>
{bye_200}
<label id="hangup"/>
<send retrans="500"><![CDATA[
BYE [next_url] SIP/2.0
{top}[peer_tag_param]
Call-ID: [call_id]
CSeq: 3 BYE
{rest}
]]></send>
<recv response="100" optional="true" timeout="2000" ontimeout="end"/>
<recv response="200" timeout="2000" ontimeout="end">{_log("ended", "caller")}</recv>
<nop next="end"/>
<label id="refused"/>
<send next="end"><![CDATA[
ACK sip:[service]@[remote_ip]:[remote_port] SIP/2.0
[last_Via:]
{top}[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
{rest}
]]></send>
<label id="end"/>
</scenario>
"""
