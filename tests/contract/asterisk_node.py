"""One real Asterisk on its own loopback address, for the contract suite alone.

Stands in until tests/lab can start nodes; it then gives way to the lab's `node` verb.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path("/var/cache/pbxctl-try")
USER = "pbxctl"
AMI_PORT = 5038
SIP_PORT = 5060

ASTERISK = """
[directories]
astetcdir => {dir}/etc
astmoddir => /usr/lib/x86_64-linux-gnu/asterisk/modules
astvarlibdir => /var/lib/asterisk
astdbdir => {dir}/db
astkeydir => {dir}/db
astdatadir => /usr/share/asterisk
astspooldir => {dir}/spool
astrundir => {dir}/run
astlogdir => {dir}/log
[options]
verbose = 0
maxcalls = 200
"""

MODULES = """
[modules]
autoload = yes
noload = chan_iax2.so
noload = chan_unistim.so
noload = chan_motif.so
noload = chan_console.so
noload = chan_bridge_media.so
noload = res_xmpp.so
noload = res_corosync.so
noload = res_snmp.so
noload = res_config_ldap.so
noload = res_phoneprov.so
noload = res_hep.so
noload = cdr_csv.so
noload = app_voicemail_odbc.so
noload = app_jack.so
noload = pbx_dundi.so
noload = pbx_lua.so
noload = pbx_ael.so
"""

# The stanza and the filters are those of controller/pbx/asterisk.py's docstring.
MANAGER = """
[general]
enabled = yes
bindaddr = {address}
port = 5038
webenabled = no
channelvars = PBXCTL_PLACEMENT
authtimeout = 5
authlimit = 20
[pbxctl]
secret = {secret}
deny = 0.0.0.0/0.0.0.0
permit = 127.0.0.0/255.0.0.0
read = system,call,dialplan
write = system,call,reporting,originate
eventfilter(action(include),name(Newchannel)) =
eventfilter(action(include),name(Newstate)) =
eventfilter(action(include),name(Hangup)) =
eventfilter(action(include),name(BridgeEnter)) =
eventfilter(action(include),name(BridgeLeave)) =
eventfilter(action(include),name(OriginateResponse)) =
eventfilter(action(include),name(VarSet),header(Variable),method(exact)) = PBXCTL_PLACEMENT
"""

PJSIP = """
[global]
type = global
[udp]
type = transport
protocol = udp
bind = {address}:5060
[trunk]
type = endpoint
context = from-trunk
disallow = all
allow = ulaw
aors = trunk
[trunk]
type = aor
contact = sip:{peer}
[trunk]
type = identify
endpoint = trunk
match = 127.0.0.0/8
"""

# `answer` waits for the test; `leg` is a call of two legs; the rest is what its name says.
EXTENSIONS = """
[globals]
ANSWER = 0
[from-trunk]
exten => _[a-z]!,1,Set(PBXCTL_PLACEMENT=${PJSIP_HEADER(read,X-Pbxctl-Placement)})
 same => n,Goto(services,${EXTEN},1)
[services]
exten => wait,1,Ringing()
 same => n,While($["${GLOBAL(ANSWER)}" != "1"])
 same => n,Wait(0.1)
 same => n,EndWhile()
 same => n,Answer()
 same => n,Wait(60)
exten => echo,1,Answer()
 same => n,Echo()
exten => leg,1,Dial(Local/echo@services/n,30)
exten => local,1,Dial(Local/echo@services,30)
exten => young,1,Answer()
 same => n,Set(GLOBAL(YOUNG)=${CHANNEL})
 same => n,Wait(60)
exten => old,1,Answer()
 same => n,Set(GLOBAL(OLD)=${CHANNEL})
 same => n,Wait(60)
exten => pull-old,1,Answer()
 same => n,Bridge(${GLOBAL(OLD)})
exten => pull-young,1,Answer()
 same => n,While($["${GLOBAL(YOUNG)}" = ""])
 same => n,Wait(0.1)
 same => n,EndWhile()
 same => n,Bridge(${GLOBAL(YOUNG)})
exten => conf,1,Answer()
 same => n,ConfBridge(one)
"""

FILES = {
    "asterisk.conf": ASTERISK,
    "modules.conf": MODULES,
    "manager.conf": MANAGER,
    "pjsip.conf": PJSIP,
    "extensions.conf": EXTENSIONS,
    "logger.conf": "[logfiles]\nmessages => notice,warning,error\n",
    "rtp.conf": "[general]\nrtpstart={rtp}\nrtpend={rtp_end}\n",
    "cdr.conf": "[general]\nenable=no\n",
    "cel.conf": "[general]\nenable=no\n",
    "http.conf": "[general]\nenabled=no\n",
    "features.conf": "",
    "confbridge.conf": "",
    "musiconhold.conf": "",
    "queues.conf": "",
    "ccss.conf": "",
    "acl.conf": "",
}


class AsteriskNode:
    def __init__(self, address: str) -> None:
        self.address = address
        self.secret = secrets.token_hex(12)
        self.dir = f"/tmp/pbxctl-{address}-{secrets.token_hex(3)}"
        self.process: subprocess.Popen[bytes] | None = None
        base = 20000 + int(address.rsplit(".", 1)[1]) % 50 * 400
        values = {
            "dir": self.dir,
            "address": address,
            "secret": self.secret,
            "peer": f"{address}:5090",
            "rtp": base,
            "rtp_end": base + 399,
        }
        for folder in ("etc", "db", "spool", "run", "log"):
            (self.inside / folder).mkdir(parents=True)
        for name, text in FILES.items():
            for key, value in values.items():
                text = text.replace("{" + key + "}", str(value))
            (self.inside / "etc" / name).write_text(text)

    @property
    def inside(self) -> Path:
        return ROOT / self.dir.lstrip("/")

    def start(self, deadline_s: float = 40.0) -> None:
        self.process = subprocess.Popen(
            ["chroot", str(ROOT), "asterisk", "-C", f"{self.dir}/etc/asterisk.conf", "-f"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            if "fully booted" in self.cli("core waitfullybooted"):
                return
            time.sleep(0.2)
        raise TimeoutError(f"asterisk at {self.address} did not boot in {deadline_s} s")

    def cli(self, command: str) -> str:
        done = subprocess.run(
            [
                "chroot",
                str(ROOT),
                "asterisk",
                "-C",
                f"{self.dir}/etc/asterisk.conf",
                "-rx",
                command,
            ],
            capture_output=True,
            text=True,
            timeout=20,
        )
        return done.stdout

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self) -> None:
        self.kill()
        if self.process is not None:
            self.process.wait(10)
        shutil.rmtree(self.inside, ignore_errors=True)
