"""The lab's own minimal config of an Asterisk node: what `pbxctl render` will write for real nodes.

Called numbers, from any trunk peer on loopback:
    9196  answers and echoes          9664  answers and plays speech until hung up
    9000  rings for ever              503   refuses with SIP 503
    any other number answers and plays speech until hung up
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

# Loading everything takes 0.8 s and 94 MB a node (measured), these 0.3 s and 64 MB.
MODULES = tuple(
    """
res_sorcery_config res_sorcery_memory res_sorcery_astdb res_timing_timerfd res_crypto res_srtp
res_pjproject res_pjsip res_pjsip_session res_pjsip_sdp_rtp res_rtp_asterisk
res_pjsip_endpoint_identifier_ip res_pjsip_endpoint_identifier_user res_pjsip_authenticator_digest
res_pjsip_outbound_authenticator_digest res_pjsip_outbound_registration res_pjsip_registrar
res_pjsip_caller_id res_pjsip_header_funcs res_pjsip_dlg_options res_pjsip_maintenance
res_pjsip_logger res_pjsip_rfc3326 res_pjsip_diversion res_pjsip_nat res_pjsip_dtmf_info
res_pjsip_acl res_pjsip_path res_pjsip_pubsub res_pjsip_refer chan_pjsip
bridge_simple bridge_native_rtp bridge_builtin_features bridge_holding
res_musiconhold pbx_config res_curl res_speech res_agi
codec_ulaw codec_alaw codec_g722 codec_resample format_pcm format_wav format_sln
app_dial app_playback app_echo app_queue app_stack app_verbose app_userevent app_mixmonitor
app_read app_record app_exec app_while app_if app_originate app_senddtmf app_softhangup
func_callerid func_channel func_curl func_cut func_db func_env func_global func_groupcount
func_hangupcause func_json func_logic func_math func_pjsip_aor func_pjsip_contact
func_pjsip_endpoint func_sprintf func_strings func_sysinfo func_timeout func_uri
""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class AsteriskSettings:
    """home: the node's folder as the node sees it, inside its chroot.

    calls_max: Asterisk's own `maxcalls`, None for no limit. rtp_ports: first and last, inclusive.
    """

    home: PurePosixPath
    modules_dir: str
    address: str
    secret: str
    calls_max: int | None = None
    rtp_ports: tuple[int, int] = (20000, 21999)


def asterisk_files(settings: AsteriskSettings) -> dict[str, str]:
    """File name below etc/ to its text."""
    return {
        "asterisk.conf": _asterisk(settings),
        "modules.conf": "[modules]\nautoload=no\n"
        + "".join(f"load = {name}.so\n" for name in MODULES),
        "logger.conf": "[general]\n[logfiles]\nmessages.log => notice,warning,error\n",
        "manager.conf": f"""[general]
enabled = yes
bindaddr = {settings.address}
port = 5038
channelvars = PBXCTL_PLACEMENT
[pbxctl]
secret = {settings.secret}
deny = 0.0.0.0/0.0.0.0
permit = 127.0.0.0/255.0.0.0
read = all
write = all
""",
        "pjsip.conf": _pjsip(settings),
        "rtp.conf": f"""[general]
rtpstart = {settings.rtp_ports[0]}
rtpend = {settings.rtp_ports[1]}
""",
        "extensions.conf": EXTENSIONS,
        "queues.conf": "[general]\n[lab]\nstrategy = ringall\n",
        "musiconhold.conf": "[default]\nmode = files\ndirectory = /usr/share/asterisk/sounds/en\n",
        "cdr.conf": "[general]\nenable = no\n",
        "cel.conf": "[general]\nenable = no\n",
        "udptl.conf": "[general]\n",
        "features.conf": "[general]\n",
        "ccss.conf": "[general]\n",
        "acl.conf": "",
        "indications.conf": INDICATIONS,
        "pjproject.conf": "",
        "queuerules.conf": "[general]\n",
    }


def _asterisk(settings: AsteriskSettings) -> str:
    home = settings.home
    limit = f"maxcalls = {settings.calls_max}\n" if settings.calls_max is not None else ""
    return f"""[directories]
astetcdir => {home}/etc
astmoddir => {settings.modules_dir}
astvarlibdir => {home}/lib
astdatadir => /usr/share/asterisk
astdbdir => {home}/db
astkeydir => {home}/lib
astagidir => {home}/lib
astspooldir => {home}/spool
astcachedir => {home}/cache
astrundir => {home}/run
astlogdir => {home}/log
[options]
verbose = 0
{limit}"""


def _pjsip(settings: AsteriskSettings) -> str:
    return f"""[global]
type = global
user_agent = lab
[udp]
type = transport
protocol = udp
bind = {settings.address}:5060
[trunk]
type = endpoint
context = trunk
transport = udp
disallow = all
allow = ulaw,alaw
direct_media = no
media_address = {settings.address}
bind_rtp_to_media_address = yes
[trunk]
type = identify
endpoint = trunk
match = 127.0.0.0/8
"""


INDICATIONS = """[general]
country = us
[us]
description = US
ringcadence = 2000,4000
dial = 350+440
busy = 480+620/500,0/500
ring = 440+480/2000,0/4000
congestion = 480+620/250,0/250
callwaiting = 440/300,0/10000
dialrecall = !350+440/100,!0/100,350+440
record = 1400/500,0/15000
info = !950/330,!1400/330,!1800/330,0
stutter = !350+440/100,!0/100,350+440
"""

EXTENSIONS = """[general]
static = yes
writeprotect = yes

[trunk]
exten => 9196,1,Gosub(placed,s,1)
 same => n,Answer()
 same => n,Echo()

exten => 9000,1,Gosub(placed,s,1)
 same => n,Ringing()
 same => n,Wait(86400)

exten => 503,1,Gosub(placed,s,1)
 same => n,Hangup(34)

exten => _X.,1,Gosub(placed,s,1)
 same => n,Answer()
 same => n(again),Playback(demo-congrats)
 same => n,Goto(again)

exten => h,1,Log(NOTICE,rtp received ${CHANNEL(rtcp,rxcount)} sent ${CHANNEL(rtcp,txcount)})

[placed]
exten => s,1,Set(PBXCTL_PLACEMENT=${PJSIP_HEADER(read,X-Pbxctl-Placement)})
 same => n,Return()
"""
