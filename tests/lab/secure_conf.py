"""Config of lab nodes whose trunk speaks SRTP, keys by SDES over plain SIP: for tests of media."""

from __future__ import annotations


def pjsip_conf(address: str, *, encryption: str = "sdes", optimistic: bool = False) -> str:
    """As the lab's own, with `media_encryption`; `number@host` is called by PJSIP/N@trunk/sip:…"""
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
media_encryption = {encryption}
media_encryption_optimistic = {"yes" if optimistic else "no"}
[trunk]
type = identify
endpoint = trunk
match = 127.0.0.0/8
"""
