"""The lab's own minimal config of a FreeSWITCH node, one file.

The called numbers are those of asterisk_conf: 9196 echoes, 9664 and any other plays speech, 9000
rings for ever, 503 refuses with SIP 503.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODULES = tuple(
    """
mod_console mod_logfile mod_event_socket mod_commands mod_dptools mod_dialplan_xml
mod_tone_stream mod_sndfile mod_native_file mod_hash mod_loopback mod_sofia
""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class FreeSwitchSettings:
    """sessions_max: FreeSWITCH's own limit of legs. speech: a WAV file to play."""

    name: str
    address: str
    secret: str
    speech: Path
    sessions_max: int = 1000
    rtp_ports: tuple[int, int] = (20000, 21999)


def freeswitch_xml(settings: FreeSwitchSettings) -> str:
    switch = {
        "switchname": settings.name,
        "event-heartbeat-interval": "1",
        "cpu-idle-smoothing-depth": "1",
        "max-sessions": str(settings.sessions_max),
        "sessions-per-second": "200",
        "loglevel": "notice",
        "colorize-console": "false",
        "rtp-start-port": str(settings.rtp_ports[0]),
        "rtp-end-port": str(settings.rtp_ports[1]),
        "rtp-enable-zrtp": "false",
    }
    event_socket = {
        "nat-map": "false",
        "listen-ip": settings.address,
        "listen-port": "8021",
        "password": settings.secret,
    }
    profile = {
        "sip-ip": settings.address,
        "rtp-ip": settings.address,
        "sip-port": "5060",
        "context": "trunk",
        "dialplan": "XML",
        "rtp-timer-name": "soft",
        "auth-calls": "false",
        "manage-presence": "false",
        "inbound-codec-prefs": "PCMU,PCMA",
        "outbound-codec-prefs": "PCMU,PCMA",
    }
    modules = "".join(f'<load module="{name}"/>' for name in MODULES)
    # local_ip_v4 is set first: FreeSWITCH otherwise guesses it from the routing table.
    return f"""<?xml version="1.0"?>
<document type="freeswitch/xml">
<X-PRE-PROCESS cmd="set" data="local_ip_v4={settings.address}"/>
<X-PRE-PROCESS cmd="set" data="domain={settings.address}"/>
<section name="configuration">
<configuration name="modules.conf"><modules>{modules}</modules></configuration>
<configuration name="switch.conf"><settings>{_params(switch)}</settings></configuration>
<configuration name="event_socket.conf"><settings>{_params(event_socket)}</settings></configuration>
<configuration name="logfile.conf"><settings/><profiles><profile name="default"><settings/>
<mappings><map name="all" value="notice,warning,err,crit,alert"/></mappings>
</profile></profiles></configuration>
<configuration name="sofia.conf">
<global_settings><param name="log-level" value="0"/><param name="auto-restart" value="false"/>
</global_settings>
<profiles><profile name="trunk"><settings>{_params(profile)}</settings></profile></profiles>
</configuration>
</section>
<section name="dialplan"><context name="trunk">
<extension name="placed" continue="true"><condition>
<action application="set" data="PBXCTL_PLACEMENT=${{sip_h_X-Pbxctl-Placement}}" inline="true"/>
</condition></extension>
<extension name="echo"><condition field="destination_number" expression="^9196$">
<action application="answer"/><action application="echo"/></condition></extension>
<extension name="ring"><condition field="destination_number" expression="^9000$">
<action application="ring_ready"/><action application="sleep" data="86400000"/>
</condition></extension>
<extension name="refuse"><condition field="destination_number" expression="^503$">
<action application="respond" data="503"/></condition></extension>
<extension name="speech"><condition field="destination_number" expression="^[0-9]+$">
<action application="answer"/><action application="endless_playback" data="{settings.speech}"/>
</condition></extension>
</context></section>
<section name="directory"/>
</document>
"""


def _params(values: dict[str, str]) -> str:
    return "".join(f'<param name="{key}" value="{value}"/>' for key, value in values.items())
