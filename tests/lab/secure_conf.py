"""Lab nodes whose trunk speaks SRTP, keys by SDES over plain SIP: for tests of media alone."""

from __future__ import annotations

from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab


def secure_asterisk(lab: Lab, name: str, *, optimistic: bool = False) -> Asterisk:
    """optimistic: clear RTP is taken too."""
    node = lab.asterisk(name)
    conf = pjsip_conf(node.address, optimistic=optimistic)
    (node.folder / "etc" / "pjsip.conf").write_text(conf)
    node.restart()
    return node


def secure_freeswitch(lab: Lab, name: str, mode: str) -> FreeSwitch:
    """mode: of rtp_secure_media. It is set before the offer is looked at: late negotiation."""
    node = lab.freeswitch(name)
    file = node.folder / "conf" / "freeswitch.xml"
    text = file.read_text()
    text = text.replace(
        '<param name="auth-calls"', '<param name="inbound-late-negotiation" value="true"/>'
        '<param name="auth-calls"', 1,
    )  # fmt: skip
    text = text.replace(
        '<extension name="placed" continue="true"><condition>',
        '<extension name="placed" continue="true"><condition>'
        f'<action application="set" data="rtp_secure_media={mode}" inline="true"/>',
        1,
    )
    file.write_text(text)
    node.restart()
    return node


def pjsip_conf(address: str, *, optimistic: bool = False) -> str:
    """As the lab's own, with SRTP."""
    return f"""[global]
type = global
user_agent = lab
[udp]
type = transport
protocol = udp
bind = {address}:5060
[trunk]
type = endpoint
context = trunk
transport = udp
disallow = all
allow = ulaw,alaw
direct_media = no
media_address = {address}
bind_rtp_to_media_address = yes
media_encryption = sdes
media_encryption_optimistic = {"yes" if optimistic else "no"}
[trunk]
type = identify
endpoint = trunk
match = 127.0.0.0/8
"""
