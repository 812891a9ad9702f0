"""Callers beyond a NAT: they know one address, behind which an edge and a node stand.

c (Asterisk) ──TLS, SRTP──▶ OUTSIDE ─NAT─▶ k (Kamailio), and media to a (Asterisk)
What c sends to either address by itself is dropped, as it is without a route.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from controller.pki.store import open_store, renew_due
from controller.render.files import folder_of
from tests.lab import sweep
from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.rendered import put_rendered, start_kamailio, start_redis, start_stunnel
from tests.lab.sipp import speech_file
from tests.lab.test_encrypted import (
    NOW,
    SAY,
    TO_K,
    calls_of,
    envelope,
    likeness,
    packets,
    tls_fleet,
)
from tests.lab.tls_sip import Dialogue, context, load_pair
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]

NAT = """
table inet {table} {{
    chain out {{
        type nat hook output priority -100; policy accept;
        ip daddr {outside} tcp dport 5061 dnat ip to {k}:5062
        ip daddr {outside} udp dport 20000-21999 dnat ip to {a}
    }}
    chain beyond {{
        type filter hook input priority -200; policy accept;
        ip saddr {c} ip daddr {{ {k}, {a} }} ct direction original ct status & dnat == 0 drop
    }}
}}
"""


def test_callers_beyond_a_nat_are_served_by_the_address_they_know(lab: Lab) -> None:
    a, c = lab.asterisk("a"), lab.asterisk("c")
    k, outside = lab.address(), lab.address()
    nodes: dict[Asterisk | FreeSwitch, str] = {a: "east", c: "west"}
    with tls_fleet(lab, nodes, f"{k}:5061") as fleet:
        document = yaml.safe_load(fleet.config_path.read_text())
        document["edges"]["k"]["outside"] = f"{outside}:5061"
        document["nodes"]["a"]["media"] = outside
        fleet.config_path.write_text(yaml.safe_dump(document))
        config = fleet.config
        renew_due(config, NOW)
        rules = NAT.format(
            table=sweep.table(lab.run.number), outside=outside, k=k, a=a.address, c=c.address
        )
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        start_redis(lab, config)
        put_rendered(config, a)
        ports = "[general]\nrtpstart = 20000\nrtpend = 21999\n"
        (a.folder / "etc" / "rtp.conf").write_text(ports)
        a.restart()
        more = {"extensions.conf": SAY, "pjsip.conf": TO_K.format(sip=f"{outside}:5061")}
        put_rendered(config, c, more)
        start_kamailio(lab, config, "k")
        start_stunnel(lab, "k", folder_of(config, "k"), config.edges["k"].redis)
        for role in ("driver", "steward"):
            fleet.start(role)
        fleet.until_active()

        _heard(lab, a, c)
        _told(lab, fleet.folder, open_store(config).folder / "sip", f"{outside}:5061", c.address)


def _heard(lab: Lab, a: Asterisk, c: Asterisk) -> None:
    """Both ways, and the end of the call reaches the node."""
    told = c.ami(
        "Action: Originate\r\nChannel: PJSIP/9500@to-k\r\nContext: say\r\nExten: s\r\n"
        "Priority: 1\r\nAsync: true\r\n"
    )
    assert "Success" in told
    until(lambda: calls_of(a), 5, "the call is on a")
    (channel,) = calls_of(a)
    until(lambda: packets(a, channel) > 250, 15, "5 s of audio came to a")
    c.cli("channel request hangup all")
    until(lambda: not calls_of(a), 5, "a heard of the end")
    (file,) = (c.folder / "spool" / "monitor").glob("heard-*.wav")
    speech = envelope(speech_file(lab.run.root))
    until(lambda: likeness(speech, envelope(file), range(-100, 100)) > 0.8, 5, "c heard the echo")


def _told(lab: Lab, folder: Path, pki: Path, outside: str, source: str) -> None:
    """What the caller has to send to stands all behind the address that he knows."""
    tls = context(pki / "ca.pem", load_pair(pki / "c.pem", pki / "c.key"), folder)
    with Dialogue(outside, "9500", tls, source=source) as call:
        code, text = call.invite()
        assert code == 200
        routes = re.findall(r"^Record-Route: *<sip:([^;>]+)", text, re.M)
        assert routes[-1] == outside, "the caller's next hop"
        assert len(routes) == 2
        assert re.findall(r"^c=IN IP4 (\S+)", text, re.M) == [outside.split(":")[0]]
        call.acknowledge()
