"""A fleet as `pbxctl init` has it: TLS 1.3 with certificates on every trunk, SRTP or no call.

c (Asterisk, an edge) ──TLS──▶ k (Kamailio) ──TLS──▶ a (Asterisk)      media c ◀─SRTP─▶ a
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import re
import secrets
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from cryptography import x509

from controller.fleet.acl import USERS
from controller.pki.authority import Pair, issue, make_authority
from controller.pki.store import Store, open_store, renew_due
from controller.pki.wanted import wanted
from controller.render.files import folder_of
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch, freeswitch_binary
from tests.lab.lab import Lab
from tests.lab.node import write_secret
from tests.lab.phone import Phone
from tests.lab.rendered import put_rendered, start_kamailio, start_redis, start_stunnel
from tests.lab.services import Program
from tests.lab.sip import answers_options
from tests.lab.sipp import speech_file
from tests.lab.tls_sip import (
    FINGERPRINT,
    GOOD_SDP,
    KEY,
    Dialogue,
    context,
    final_response,
    invite,
    load_pair,
)
from tests.lab.until import until
from tests.lab.wire import listening, stretches

pytestmark = [pytest.mark.lab, pytest.mark.alone]

PLAIN_PORT = 5070
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
#: the caller: what c plays to the far end, and how it reaches the Kamailio
SAY = """
[say]
exten => s,1,MixMonitor(said-${UNIQUEID}.wav,r(heard-${UNIQUEID}.wav))
 same => n,Playback(demo-congrats)
"""
TO_K = """
[to-k](pbxctl-peer)
aors = to-k
allow = !all,ulaw
[to-k]
type = aor
contact = sip:{sip}\\;transport=tls
"""


SUITES = {"AEAD_AES_256_GCM": 44, "AES_256_CM_HMAC_SHA1_80": 46, "AES_CM_128_HMAC_SHA1_80": 30}


@dataclass
class World:
    lab: Lab
    fleet: LabFleet
    store: Store
    a: Asterisk
    c: Asterisk
    kamailio: Program
    k: str
    f: FreeSwitch | None

    def sip(self, name: str) -> str:
        config = self.fleet.config
        return config.nodes[name].sip if name in config.nodes else config.edges[name].sip

    def shows(self, pair: Pair | None) -> ssl.SSLContext:
        return context(self.store.ca("sip"), pair, self.fleet.folder)

    def of(self, name: str, authority: str = "sip") -> Pair:
        folder = self.store.folder / authority
        return load_pair(folder / f"{name}.pem", folder / f"{name}.key")

    def say(self, endpoint: str, number: str = "9500") -> None:
        told = self.c.ami(
            f"Action: Originate\r\nChannel: PJSIP/{number}@{endpoint}\r\nContext: say\r\n"
            "Exten: s\r\nPriority: 1\r\nAsync: true\r\n"
        )
        assert "Success" in told


def tls_fleet(lab: Lab, nodes: dict[Asterisk | FreeSwitch, str], k: str) -> LabFleet:
    """Nodes at :5061 and :5039, beside what the lab itself has at :5060 and :5038; an edge at `k`;
    Redis by TLS, with a user for each role."""
    users = lab.run.folder / "users"
    users.mkdir()
    for role in USERS:
        write_secret(users / role, secrets.token_urlsafe(24))
    host = k.split(":")[0]
    peer = {"address": lab.address(), "reason": "a phone of the test, without TLS"}
    settings = {
        "security": {
            "signalling": "tls",
            "media": "srtp-sdes",
            "control": "tls",
            "plain_peers": [peer],
            "plain_port": PLAIN_PORT,
        },
        "redis": {"url": f"rediss://{lab.address()}:6379/0", "users": str(users)},
        "edges": {"k": {"region": "east", "sip": k, "redis": f"{host}:6380"}},
        "numbers": [{"prefix": "95", "service": "echo", "regions": ["east"]}],
        "agent": {"host": lab.address()},
    }
    fleet = LabFleet(lab, nodes, None, settings=settings)
    document = yaml.safe_load(fleet.config_path.read_text())
    for node in document["nodes"].values():
        host = node["sip"].split(":")[0]
        node |= {"user": "fleet", "sip": f"{host}:5061", "control": f"{host}:5039"}
        if node["kind"] == "freeswitch":
            node["event_socket"] = f"{host}:8021"
    for lab_node in nodes:
        conf = "conf" if isinstance(lab_node, FreeSwitch) else "etc"
        document["nodes"][lab_node.name]["folder"] = str(lab_node.folder / conf)
    for name in {"c", "f"} & set(document["nodes"]):
        document["nodes"][name]["edge"] = True
    fleet.config_path.write_text(yaml.safe_dump(document))
    renew_due(fleet.config, NOW)
    return fleet


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab() as lab:
        a, c = lab.asterisk("a"), lab.asterisk("c")
        f = lab.freeswitch("f") if freeswitch_binary() else None
        k = f"{lab.address()}:5061"
        nodes: dict[Asterisk | FreeSwitch, str] = {a: "east", c: "west"}
        with tls_fleet(lab, nodes | ({f: "south"} if f else {}), k) as fleet:
            config = fleet.config
            start_redis(lab, config)
            put_rendered(config, a)
            if f:
                put_rendered(config, f)
                start_stunnel(lab, "f", f.folder / "conf", config.nodes["f"].control)
            more = {"extensions.conf": SAY, "pjsip.conf": TO_K.format(sip=k)}
            put_rendered(config, c, more)
            kamailio = start_kamailio(lab, config, "k")
            start_stunnel(lab, "k", folder_of(config, "k"), config.edges["k"].redis)
            for role in ("driver", "steward", "agent"):
                fleet.start(role)
            # Nobody else may load the functions.
            until(lambda: "leads the fleet" in fleet.log("steward"), 10, "the steward leads")
            fleet.until_active()
            yield World(lab, fleet, open_store(config), a, c, kamailio, k, f)


SERVERS = ["a", "k", pytest.param("f", marks=pytest.mark.freeswitch)]


def calls_of(node: Asterisk) -> list[str]:
    lines = node.cli("core show channels concise").splitlines()
    return [line.split("!")[0] for line in lines if "!" in line]


def hang_up(*nodes: Asterisk) -> None:
    for node in nodes:
        for channel in calls_of(node):
            node.cli(f"channel request hangup {channel}")
    until(lambda: not any(map(calls_of, nodes)), 5, "no calls")


def envelope(wav: Path) -> list[float]:
    """Loudness of each 20 ms."""
    import wave
    from array import array

    with wave.open(str(wav)) as source:
        samples = array("h", source.readframes(source.getnframes()))
    return [sum(map(abs, samples[i : i + 160])) / 160 for i in range(0, len(samples) - 160, 160)]


def likeness(one: list[float], other: list[float], lags: range) -> float:
    """The best correlation of two envelopes, 1 for the same speech."""
    import statistics

    best = 0.0
    for lag in lags:
        pairs = list(zip(one[max(0, -lag) :], other[max(0, lag) :], strict=False))
        if len(pairs) > 50:
            best = max(best, statistics.correlation(*map(list, zip(*pairs, strict=True))))
    return best


@pytest.mark.parametrize("endpoint", ["to-k", "pbxctl-to-a"])
def test_a_call_is_heard_at_the_far_end_and_nowhere_else(world: World, endpoint: str) -> None:
    speech = stretches(speech_file(world.lab.run.root))
    addresses = [world.a.address, world.c.address, world.k.split(":")[0]]
    with listening(world.lab.run, addresses) as seen:
        hang_up(world.a, world.c)
        world.say(endpoint)
        until(lambda: calls_of(world.a), 5, "the call is on a")
        (channel,) = calls_of(world.a)
        until(lambda: packets(world.a, channel) > 150, 10, "3 s of audio came to a")
        for what in ("rtp,secure", "pjsip,secure"):
            answer = world.a.ami(
                f"Action: Getvar\r\nChannel: {channel}\r\nVariable: CHANNEL({what})\r\n"
            )
            assert "Value: 1" in answer
        hang_up(world.c, world.a)
    assert len(seen.media()) > 250, "both ways"
    assert seen.readable(speech) == 0
    assert not seen.sip_lines()
    spool = world.c.folder / "spool" / "monitor"
    heard = max(spool.glob("heard-*.wav"), key=lambda path: path.stat().st_mtime_ns)
    told = envelope(speech_file(world.lab.run.root))

    def same() -> bool:
        return likeness(told, envelope(heard), range(-100, 100)) > 0.8

    until(same, 5, "the recording, once it is written, is the speech that came back")


@pytest.mark.freeswitch
@pytest.mark.parametrize("suite", SUITES)
def test_freeswitch_takes_the_strongest_suites(world: World, suite: str) -> None:
    """And what it offers itself has them in this order."""
    good = world.shows(world.of("c"))
    key = base64.b64encode(bytes(range(SUITES[suite]))).decode()
    sdp = ("RTP/SAVP", f"1 {suite} inline:{key}")
    code, text = invite(world.sip("f"), "9500", good, source=world.c.address, sdp=sdp)
    assert (code, re.findall(r"a=crypto:\S+ (\S+)", text)) == (200, [suite])


@pytest.mark.freeswitch
def test_freeswitch_is_called_with_srtp(world: World) -> None:
    f = world.f
    assert f
    f.esl("api hupall")
    until(lambda: "0 total" in f.esl("api show calls"), 5, "no call is on f")
    world.say("pbxctl-to-f")
    until(lambda: "1 total" in f.esl("api show calls"), 5, "the call is on f")
    (uuid,) = re.findall(r"^([0-9a-f-]{36}),", f.esl("api show calls"), re.M)
    assert f.esl(f"api uuid_getvar {uuid} rtp_has_crypto") == "AES_CM_128_HMAC_SHA1_80"
    assert f.esl(f"api uuid_getvar {uuid} sip_via_protocol") == "tls"
    hang_up(world.c)


@pytest.mark.freeswitch
def test_the_event_socket_is_for_the_driver_alone(world: World) -> None:
    """Of the roles, too: the agent's certificate is of the same authority."""
    host, port = world.fleet.config.nodes["f"].control.split(":")
    got = {}
    for name in ("driver", "agent", None):
        tls = context(world.store.ca("control"), None, world.fleet.folder)
        if name:
            key = world.of(name, "control")
            tls = context(world.store.ca("control"), key, world.fleet.folder)
        try:
            with (
                socket.create_connection((host, int(port)), 2) as plain,
                tls.wrap_socket(plain, server_hostname=host) as link,
            ):
                got[name] = link.recv(100)
        except OSError:
            got[name] = b""
    assert got == {"driver": b"Content-Type: auth/request\n\n", "agent": b"", None: b""}


def packets(node: Asterisk, channel: str) -> int:
    answer = node.ami(
        f"Action: Getvar\r\nChannel: {channel}\r\nVariable: CHANNEL(rtcp,rxcount)\r\n"
    )
    found = re.search(r"^Value: (\d+)", answer, re.M)  # empty before the first packet
    return int(found[1]) if found else 0


def test_the_listener_on_the_wire_would_have_heard_a_plain_call(world: World) -> None:
    """So that the test above can fail."""
    plain = world.lab.asterisk("plain")
    with listening(world.lab.run, [plain.address]) as seen:
        world.lab.call(plain, "9664", hold_s=2)
    assert seen.readable(stretches(speech_file(world.lab.run.root))) > 50
    assert any(b"INVITE" in line for line in seen.sip_lines())


@pytest.mark.parametrize("to", SERVERS)
def test_plain_sip_finds_no_listener(world: World, to: str) -> None:
    host, port = world.sip(to).split(":")
    for candidate in (5060, int(port)):
        assert not answers_options(host, candidate)
    assert final_response(world.sip(to), "9500", None, source=world.c.address) == 0


def strangers(world: World) -> dict[str, ssl.SSLContext]:
    """Who must not get as far as SIP."""
    sip = world.of("ca")
    foreign = make_authority("lab", "sip", NOW)
    old = world.shows(world.of("c"))
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    def leaf(authority: Pair, began: dt.datetime) -> Pair:
        return issue(authority, "c", [], began, days=30, server=True, client=True)

    return {
        "shows no certificate": world.shows(None),
        "one of another authority": world.shows(leaf(foreign, NOW)),
        "an expired one": world.shows(leaf(sip, NOW - 60 * DAY)),
        "one that is not valid yet": world.shows(leaf(sip, NOW + 2 * DAY)),
        "a role's": world.shows(world.of("driver", "control")),
        "TLS 1.2": old,
    }


@pytest.mark.parametrize("to", SERVERS)
def test_who_has_no_certificate_of_the_fleet_is_refused(world: World, to: str) -> None:
    got = {
        who: final_response(world.sip(to), "9500", tls, source=world.c.address)
        for who, tls in strangers(world).items()
    }
    assert set(got.values()) == {0}, got
    good = world.shows(world.of("c"))
    assert final_response(world.sip(to), "9500", good, source=world.c.address) == 200


BAD_OFFERS = {
    "in clear": ("RTP/AVP", ""),
    "in clear with feedback": ("RTP/AVPF", ""),
    "in clear with a fingerprint": ("RTP/AVP", FINGERPRINT),
    "without keys": ("RTP/SAVP", ""),
    "without keys, with a fingerprint": ("RTP/SAVP", FINGERPRINT),
    "of DTLS": ("UDP/TLS/RTP/SAVP", FINGERPRINT),
    "of an unknown suite": ("RTP/SAVP", f"1 AES_512_CM_HMAC_SHA3_99 inline:{KEY}"),
    "of a suite that is too weak": ("RTP/SAVP", f"1 AES_CM_128_NULL_AUTH inline:{KEY}"),
    "with a short key": ("RTP/SAVP", "1 AES_CM_128_HMAC_SHA1_80 inline:c2hvcnQ="),
    "with a key that is no base64": ("RTP/SAVP", "1 AES_CM_128_HMAC_SHA1_80 inline:%%%%"),
    "with no cipher": ("RTP/SAVP", f"1 NULL_HMAC_SHA1_80 inline:{KEY}"),
    "UNENCRYPTED_SRTP": ("RTP/SAVP", f"{GOOD_SDP[1]} UNENCRYPTED_SRTP"),
}


@pytest.mark.parametrize("offer", BAD_OFFERS)
@pytest.mark.parametrize("to", SERVERS)
def test_an_offer_of_bad_media_is_488(world: World, to: str, offer: str) -> None:
    good = world.shows(world.of("c"))
    sdp = BAD_OFFERS[offer]
    assert final_response(world.sip(to), "9500", good, source=world.c.address, sdp=sdp) == 488


DOWNGRADES = ("in clear", "in clear with a fingerprint", "without keys", "with a short key")


@pytest.mark.parametrize("offer", DOWNGRADES)
@pytest.mark.parametrize("to", SERVERS)
def test_a_call_cannot_be_made_clear_later(world: World, to: str, offer: str) -> None:
    """By a re-INVITE of a peer of the fleet: refused, and the call keeps its keys. FreeSWITCH
    takes a key that is too short; the attestation then ends the call."""
    good = world.shows(world.of("c"))
    with Dialogue(world.sip(to), "9500", good, source=world.c.address) as call:
        assert call.invite()[0] == 200
        call.acknowledge()
        code, text = call.invite(BAD_OFFERS[offer])
        call.acknowledge()
        if (to, offer) == ("f", "with a short key"):
            assert call.ended(1)
            return
        assert code == 488, text
        assert not call.ended(0.3)
        again, answer = call.invite()
        assert (again, "RTP/SAVP " in answer) == (200, True)
    hang_up(world.a)


def test_keys_in_an_offer_that_calls_itself_clear_are_used(world: World) -> None:
    """Asterisk takes RTP/AVP with keys for what it means; the Kamailio does not."""
    good, sdp = world.shows(world.of("c")), ("RTP/AVP", GOOD_SDP[1])
    hang_up(world.a)
    assert final_response(world.k, "9500", good, source=world.c.address, sdp=sdp) == 488
    assert final_response(world.sip("a"), "9500", good, source=world.c.address, sdp=sdp) == 200
    (channel,) = calls_of(world.a)
    asked = f"Action: Getvar\r\nChannel: {channel}\r\nVariable: CHANNEL(rtp,secure)\r\n"
    assert "Value: 1" in world.a.ami(asked)


def shown(sip: str, tls: ssl.SSLContext) -> int:
    """Serial of the certificate that a server shows to a new connection, 0 for none."""
    host, port = sip.split(":")
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, int(port)), 2) as plain,
        tls.wrap_socket(plain, server_hostname=host) as link,
    ):
        return x509.load_der_x509_certificate(link.getpeercert(True) or b"").serial_number
    return 0


def shows(sip: str, tls: ssl.SSLContext, serial: int) -> bool:
    return shown(sip, tls) == serial


def test_certificates_are_renewed_under_calls_that_go_on(world: World) -> None:
    """By the agent, everywhere; the calls' own connections carry their BYE afterwards."""
    config, f = world.fleet.config, world.f
    hang_up(world.a, world.c)
    if f:
        f.esl("api hupall")
    world.say("to-k")
    world.say("pbxctl-to-a")
    if f:
        world.say("pbxctl-to-f")
    until(lambda: len(calls_of(world.a)) == 2, 5, "two calls on a")
    places = {"a": world.sip("a"), "k": world.k, "c": world.sip("c")}
    control = {"a": config.nodes["a"].control}
    if f:
        until(lambda: "1 total" in f.esl("api show calls"), 5, "one call on f")
        places["f"], control["f"] = world.sip("f"), config.nodes["f"].control
    sip = world.shows(world.of("c"))
    link = context(world.store.ca("control"), world.of("driver", "control"), world.fleet.folder)
    world.store.renew(wanted(config), dt.datetime.now(dt.UTC), force=True)

    for name, where in places.items():
        serial = world.of(name).certificate.serial_number
        until(partial(shows, where, sip, serial), 20, f"{name} shows its new one")
    for name, where in control.items():
        serial = world.of(f"node-{name}", "control").certificate.serial_number
        until(partial(shows, where, link, serial), 20, f"{name}'s control link does")

    assert len(calls_of(world.a)) == 2
    before = [packets(world.a, channel) for channel in calls_of(world.a)]
    until(
        lambda: all(
            packets(world.a, c) > n + 50 for c, n in zip(calls_of(world.a), before, strict=True)
        ),
        5,
        "audio goes on",
    )
    for channel in calls_of(world.c):
        world.c.cli(f"channel request hangup {channel}")
    until(lambda: not calls_of(world.a), 3, "a has heard the BYE")
    if f:
        until(lambda: "0 total" in f.esl("api show calls"), 3, "f has heard the BYE")
    world.fleet.until_active(10)
    good = world.shows(world.of("c"))
    assert final_response(world.k, "9500", good, source=world.c.address) == 200


@pytest.mark.parametrize("to", ["c", SERVERS[2]])
def test_a_plain_peer_calls_in_by_a_pbx_that_encrypts_the_rest(world: World, to: str) -> None:
    config = world.fleet.config
    (peer,) = config.security.plain_peers
    host = world.sip(to).split(":")[0]
    hang_up(world.a, world.c)
    with Phone(peer.address) as phone:
        call = phone.call(f"{host}:{PLAIN_PORT}", "9500")
        assert call.code == 200, call.response
        (channel,) = calls_of(world.a)
        for what in ("rtp,secure", "pjsip,secure"):
            asked = f"Action: Getvar\r\nChannel: {channel}\r\nVariable: CHANNEL({what})\r\n"
            assert "Value: 1" in world.a.ami(asked)
        assert any(r.placement for r in world.fleet.ask(lambda fleet: fleet.calls("a")))
        call.hang_up()
    with Phone(world.lab.address()) as stranger:
        assert stranger.call(f"{host}:{PLAIN_PORT}", "9500").code in (401, 403)
    until(lambda: not calls_of(world.a), 5, "no call")


def test_the_edge_places_by_redis_over_tls(world: World) -> None:
    """Not by its list: a placement stands in the call's record."""
    hang_up(world.a, world.c)
    world.say("to-k")

    def placed() -> bool:
        return any(r.placement for r in world.fleet.ask(lambda fleet: fleet.calls("a")))

    until(placed, 5, "a call with its placement")
    hang_up(world.a, world.c)


def test_redis_speaks_to_the_fleet_alone(world: World) -> None:
    url = urlsplit(world.fleet.config.redis.url or "")
    where = (str(url.hostname), url.port or 0)
    for pair, expected in ((None, b""), (world.of("a"), b""), (world.of("agent", "control"), b"-")):
        tls = context(world.store.ca("control"), pair, world.fleet.folder)
        got = b""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(where, 2) as plain,
            tls.wrap_socket(plain, server_hostname=where[0]) as link,
        ):
            link.sendall(b"PING\r\n")
            got = link.recv(100)
        assert got[:1] == expected, got
    with socket.create_connection(where, 2) as plain:
        plain.sendall(b"PING\r\n")
        plain.settimeout(2)
        with contextlib.suppress(ConnectionError):
            assert not plain.recv(100).startswith((b"+", b"-"))


def test_a_placement_from_a_stranger_is_not_believed(world: World) -> None:
    """With a certificate of the fleet even, but from an address that is no peer's."""
    forged = "X-Pbxctl-Placement: forged-1\r\n"
    tls = world.shows(world.of("c"))
    code = final_response(world.sip("a"), "9500", tls, source=world.lab.address(), headers=forged)
    assert code in (401, 403)
    phones = world.fleet.config.nodes["a"].phones_sip
    code = final_response(phones, "9500", world.shows(None), source=world.c.address, headers=forged)
    assert code >= 400, "a peer's address on the listener that asks for no certificate"
    records = world.fleet.ask(lambda fleet: fleet.calls("a"))
    assert not [r for r in records if r.placement == "forged-1"]
