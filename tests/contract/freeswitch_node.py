"""One real FreeSWITCH on its own loopback address, for the contract suite and for recordings.

Stands in until tests/lab can start nodes; it then gives way to the lab's `node` verb.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from io import BufferedRWPair
from pathlib import Path

ESL_PORT = 8021
SIP_PORT = 5060

CONFIG = """<?xml version="1.0"?>
<document type="freeswitch/xml">
  <X-PRE-PROCESS cmd="set" data="local_ip_v4={address}"/>
  <X-PRE-PROCESS cmd="set" data="domain=fs.test"/>
  <section name="configuration">
    <configuration name="modules.conf"><modules>
      <load module="mod_event_socket"/> <load module="mod_commands"/>
      <load module="mod_dptools"/> <load module="mod_dialplan_xml"/>
      <load module="mod_tone_stream"/> <load module="mod_sndfile"/>
      <load module="mod_loopback"/> <load module="mod_sofia"/>
    </modules></configuration>
    <configuration name="switch.conf"><settings>
      <param name="switchname" value="pbx"/> <param name="event-heartbeat-interval" value="1"/>
      <param name="max-sessions" value="100"/> <param name="sessions-per-second" value="100"/>
      <param name="rtp-start-port" value="{rtp}"/> <param name="rtp-end-port" value="{rtp_end}"/>
      <param name="rtp-enable-zrtp" value="false"/>
    </settings></configuration>
    <configuration name="event_socket.conf"><settings>
      <param name="nat-map" value="false"/> <param name="listen-ip" value="{address}"/>
      <param name="listen-port" value="8021"/> <param name="password" value="{secret}"/>
    </settings></configuration>
    <configuration name="acl.conf"><network-lists/></configuration>
    <configuration name="sofia.conf"><profiles><profile name="trunk"><settings>
      <param name="sip-ip" value="{address}"/> <param name="rtp-ip" value="{address}"/>
      <param name="sip-port" value="5060"/> <param name="context" value="from-trunk"/>
      <param name="dialplan" value="XML"/> <param name="auth-calls" value="false"/>
      <param name="manage-presence" value="false"/>
      <param name="accept-blind-reg" value="true"/>
      <param name="rtp-secure-media" value="optional"/>
      <!-- without a timer 1.11.3 leaves a re-INVITE unanswered while no RTP comes -->
      <param name="rtp-timer-name" value="soft"/>
      <param name="inbound-codec-prefs" value="PCMU"/>
      <param name="outbound-codec-prefs" value="PCMU"/>
    </settings></profile></profiles></configuration>
  </section>
  <section name="dialplan">
    <context name="from-trunk">
      <extension name="placed" continue="true">
        <condition field="${sip_h_X-Pbxctl-Placement}" expression="^([A-Za-z0-9_.:-]{1,128})$">
          <action application="export" data="pbxctl_placement=$1" inline="true"/>
        </condition>
      </extension>
      <extension name="wait"><condition field="destination_number" expression="^wait$">
        <action application="ring_ready"/> <action application="sleep" data="60000"/>
      </condition></extension>
      <extension name="mute"><condition field="destination_number" expression="^mute$">
        <action application="sleep" data="60000"/>
      </condition></extension>
      <extension name="park"><condition field="destination_number" expression="^park$">
        <action application="answer"/> <action application="park"/>
      </condition></extension>
      <extension name="leg"><condition field="destination_number" expression="^leg$">
        <action application="set" data="hangup_after_bridge=true"/>
        <action application="bridge" data="sofia/trunk/leg@{peer}"/>
      </condition></extension>
    </context>
  </section>
  <section name="directory"><domain name="fs.test"/></section>
</document>
"""

# The plain SIPp scenario with our header; [service] is the extension.
TRUNK = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="trunk">
<send retrans="500"><![CDATA[
INVITE sip:[service]@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: {display}<sip:{caller}@[local_ip]:[local_port]>;tag=[pid]S[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: sip:trunk@[local_ip]:[local_port]
Max-Forwards: 70
{header}Content-Type: application/sdp
Content-Length: [len]

v=0
o=trunk 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [media_ip]
t=0 0
m=audio [media_port] RTP/AVP 0
a=rtpmap:0 PCMU/8000
]]></send>
<recv response="100" optional="true"/>
<recv response="180" optional="true"/>
<recv response="183" optional="true"/>
<recv response="200" rrs="true"/>
<send><![CDATA[
ACK [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: {display}<sip:{caller}@[local_ip]:[local_port]>;tag=[pid]S[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv request="BYE"/>
<send><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0

]]></send>
</scenario>
"""


def freeswitch_binary() -> str | None:
    """FREESWITCH_BIN, else freeswitch on PATH, with links followed: it finds its modules so."""
    found = os.environ.get("FREESWITCH_BIN") or shutil.which("freeswitch")
    return str(Path(found).resolve()) if found else None


class FreeSwitchNode:
    """peer: host:port that extension `leg` dials."""

    def __init__(self, address: str, *, peer: str) -> None:
        self.address = address
        self.secret = secrets.token_hex(12)
        self.process: subprocess.Popen[bytes] | None = None
        self._sipp: list[subprocess.Popen[bytes]] = []
        self.dir = Path(tempfile.mkdtemp(prefix="pbxctl-fs-"))
        base = 20000 + int(address.rsplit(".", 1)[1]) % 50 * 400
        text = CONFIG
        for key, value in {
            "address": address,
            "secret": self.secret,
            "peer": peer,
            "rtp": base,
            "rtp_end": base + 399,
        }.items():
            text = text.replace("{" + key + "}", str(value))
        self._folders = ["conf", "log", "db", "run", "recordings", "certs", "scripts", "temp"]
        self._folders += ["storage", "cache", "grammar", "htdocs", "sounds"]
        for folder in self._folders:
            (self.dir / folder).mkdir()
        (self.dir / "conf" / "freeswitch.xml").write_text(text)

    def start(self, deadline_s: float = 30.0) -> None:
        binary = freeswitch_binary()
        if binary is None:
            raise FileNotFoundError("no FreeSWITCH: set FREESWITCH_BIN or put it on PATH")
        options = [part for name in self._folders for part in (f"-{name}", str(self.dir / name))]
        self.process = subprocess.Popen(
            [binary, "-nf", "-nc", "-nonat", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            try:
                if "is ready" in self.api("status") and "RUNNING" in self.api("sofia status"):
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise TimeoutError(f"FreeSWITCH at {self.address} did not come up in {deadline_s} s")

    def api(self, command: str) -> str:
        """One API command on a link of the test's own, parsed apart from the code under test."""
        with socket.create_connection((self.address, ESL_PORT), timeout=5) as link:
            stream = link.makefile("rwb")
            self._block(stream)
            for line in (f"auth {self.secret}", f"api {command}"):
                stream.write(f"{line}\n\n".encode())
                stream.flush()
                head = self._block(stream)
            length = int(head["Content-Length"])
            return str(stream.read(length).decode("utf-8", "replace"))

    @staticmethod
    def _block(stream: BufferedRWPair) -> dict[str, str]:
        head: dict[str, str] = {}
        while (line := stream.readline().decode().strip()) or not head:
            if not line and not head:
                raise OSError("closed")
            name, _, value = line.partition(": ")
            head[name] = value
        return head

    def call(
        self, exten: str, *, caller: str, placement: str = "", display: str = "", port: int = 5070
    ) -> subprocess.Popen[bytes]:
        """A trunk, at .250 of the node's network, sends one call and waits for its end."""
        scenario = self.dir / f"trunk-{port}.xml"
        header = f"X-Pbxctl-Placement: {placement}\n" if placement else ""
        scenario.write_text(
            TRUNK.replace("{caller}", caller)
            .replace("{header}", header)
            .replace("{display}", f'"{display}" ' if display else "")
        )
        return self._spawn("-sf", str(scenario), "-s", exten, f"{self.address}:{SIP_PORT}", port)

    def phone(self, port: int) -> subprocess.Popen[bytes]:
        """A phone that answers every call."""
        return self._spawn("-sn", "uas", port)

    def _spawn(self, *options: str | int) -> subprocess.Popen[bytes]:
        *rest, port = options
        peer = self.address.rsplit(".", 1)[0] + ".250"
        command = ["sipp", *map(str, rest), "-i", peer, "-p", str(port), "-nostdin"]
        if "-sf" in rest:
            command += ["-m", "1"]
        process = subprocess.Popen(
            command, cwd=self.dir, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._sipp.append(process)
        return process

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self) -> None:
        self.signal(signal.SIGKILL)
        for process in self._sipp:
            process.kill()
            process.wait(10)
        if self.process is not None:
            self.process.wait(10)
        shutil.rmtree(self.dir, ignore_errors=True)
