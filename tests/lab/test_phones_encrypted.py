"""Phones as `pbxctl init` has them: TLS to their nodes, SRTP or no call, nobody listens in."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import time
from collections.abc import Iterator
from functools import partial

import pytest

from controller.api.shapes import call_key
from controller.fleet.state import LegMedia
from controller.pki.authority import make_authority
from controller.pki.store import open_store
from tests.lab.asterisk import Asterisk
from tests.lab.baresip import Baresip
from tests.lab.freeswitch import FreeSwitch, freeswitch_binary
from tests.lab.lab import Lab
from tests.lab.phone_fleet import PhoneFleet
from tests.lab.register import Registrar
from tests.lab.rendered import put_rendered
from tests.lab.test_phones import HIGH_HZ, LOW_HZ, assert_they_talk
from tests.lab.tls_sip import FINGERPRINT, GOOD_SDP, context, final_response, load_pair
from tests.lab.until import until
from tests.lab.wire import listening, stretches

pytestmark = [pytest.mark.lab, pytest.mark.alone]


def assert_attested(fleet: PhoneFleet, caller: Baresip, number: str, called: Baresip) -> None:
    """A call of `caller` is attested as encrypted, leg by leg, on each node that has part of it."""
    since = len(called.events)
    caller.dial(number)
    called.answer(since=since)
    for node in {fleet.where(number), fleet.where(caller.name.removeprefix("phone-"))}:
        legs = until(partial(attested, fleet, node), 5, f"both legs on {node} are encrypted")
        assert all(leg.encrypted and leg.tls for leg in legs or ())
    caller.hangup()
    called.wait("CALL_CLOSED", 5, since=since)
    until(lambda: not any(view.calls for view in fleet.views().values()), 5, "all over")


def attested(fleet: PhoneFleet, node: str) -> list[LegMedia]:
    """The legs of the node's one call, once both are known."""
    calls = fleet.ask(lambda door: door.calls(node))
    if not calls:
        return []
    seen = fleet.ask(lambda door: door.call(call_key(calls[0])))
    media = seen.security if seen else None
    whole = media is not None and media.verdict == "encrypted" and len(media.legs) == 2
    return list(media.legs) if media is not None and whole else []


@pytest.fixture(scope="module")
def fleet() -> Iterator[PhoneFleet]:
    with Lab() as lab:
        nodes: dict[Asterisk | FreeSwitch, str] = {
            lab.asterisk("a"): "east",
            lab.asterisk("b"): "west",
        }
        if freeswitch_binary():
            nodes[lab.freeswitch("f")] = "south"
        with PhoneFleet(lab, nodes, lab.redis(), encrypted=True) as running:
            running.begin()
            yield running


def test_phones_of_two_nodes_talk_and_nobody_listens(fleet: PhoneFleet) -> None:
    low = fleet.phone("1001", "east", tone_hz=LOW_HZ)
    high = fleet.phone("2002", "west", tone_hz=HIGH_HZ)
    assert (fleet.where("1001"), fleet.where("2002")) == ("a", "b")
    assert fleet.phone_view("1001").at[0].transport == "tls"
    addresses = [n.address for n in (*fleet.nodes.values(), low, high)]
    with listening(fleet.lab.run, addresses) as seen:
        assert_they_talk(low, "2002", high)
        assert_they_talk(high, "1001", low)
    assert_attested(fleet, low, "2002", high)
    assert len(seen.media()) > 200
    tones = stretches(low.said) | stretches(high.said)
    assert seen.readable(tones) == 0
    assert not seen.sip_lines()


@pytest.mark.freeswitch
def test_phones_of_freeswitch_and_asterisk_talk_and_nobody_listens(fleet: PhoneFleet) -> None:
    low = fleet.phone("3001", "south", tone_hz=LOW_HZ)
    other = fleet.phone("3003", "south", tone_hz=700)
    high = fleet.phone("2003", "west", tone_hz=HIGH_HZ)
    assert (fleet.where("3001"), fleet.where("2003")) == ("f", "b")
    assert fleet.phone_view("3001").at[0].transport == "tls"
    addresses = [n.address for n in (*fleet.nodes.values(), low, other, high)]
    with listening(fleet.lab.run, addresses) as seen:
        assert_they_talk(low, "3003", other)
        assert_they_talk(low, "2003", high)
        assert_they_talk(high, "3001", low)
    assert len(seen.media()) > 400
    tones = stretches(low.said) | stretches(other.said) | stretches(high.said)
    assert seen.readable(tones) == 0
    assert not seen.sip_lines()
    assert_attested(fleet, low, "3003", other)
    assert_attested(fleet, low, "2003", high)
    assert_attested(fleet, high, "3001", low)


@pytest.mark.parametrize("node", ["a", pytest.param("f", marks=pytest.mark.freeswitch)])
def test_a_register_that_was_seen_is_soon_worth_nothing(fleet: PhoneFleet, node: str) -> None:
    """Replayed from the phone's own address, which takes a TLS connection from there; to another
    contact, for the digest does not cover it. FreeSWITCH counts the uses of a nonce; Asterisk does
    not, and lets it be used for nonce_lifetime."""
    name = {"a": "3101", "f": "3102"}[node]
    made = fleet.add(name, "east")
    fleet.until_ready(name)
    where = fleet.config.nodes[node].phones_sip
    tls = context(open_store(fleet.config).ca("sip"), None, fleet.folder)
    address = fleet.lab.address()
    phone = Registrar(where, address, tls)
    header = phone.authorization(name, made.password, phone.register(name))
    assert phone.register(name, header).code == 200
    stolen, used_s = phone.sent, time.monotonic()

    def refused() -> bool:
        thief = Registrar(where, address, tls)
        codes = {thief.send(stolen).code, thief.register(name, header).code}
        return codes <= {401, 403}

    if node == "a":
        until(refused, 8, "the nonce has ended")
        assert time.monotonic() - used_s < 7
    assert refused()
    with pytest.raises(OSError):  # and not at all without TLS
        Registrar(where, address).send(stolen)


@pytest.mark.parametrize("node", ["a", pytest.param("f", marks=pytest.mark.freeswitch)])
def test_what_a_listener_keeps_of_a_register_cannot_be_sent_again(
    fleet: PhoneFleet, node: str
) -> None:
    """At once and from the same address: each TLS connection has keys of its own, and no node takes
    early data, which could be replayed."""
    name = {"a": "3103", "f": "3104"}[node]
    made = fleet.add(name, "east")
    fleet.until_ready(name)
    where, address = fleet.config.nodes[node].phones_sip, fleet.lab.address()
    phone = Registrar(
        where, address, context(open_store(fleet.config).ca("sip"), None, fleet.folder)
    )
    header = phone.authorization(name, made.password, phone.register(name))
    assert phone.register(name, header).code == 200
    kept = phone.wire
    until(lambda: fleet.phone_view(name).at, 5, "it is registered")
    header = phone.authorization(name, made.password, phone.register(name, expires_s=0))
    assert phone.register(name, header, expires_s=0).code == 200
    until(lambda: not fleet.phone_view(name).at, 5, "it is registered no longer")

    assert (name.encode() in kept, b"REGISTER" in kept) == (False, False)
    host, port = where.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 2, (address, 0)) as thief:
        thief.sendall(kept)
        with contextlib.suppress(ConnectionResetError):
            while thief.recv(65536):  # its hello, its alert, the end; TimeoutError if it goes on
                pass
    assert not fleet.phone_view(name).at
    assert (
        phone.register(name, phone.authorization(name, made.password, phone.register(name))).code
        == 200
    )


def test_with_dtls_the_keys_are_in_nobodys_sip(lab: Lab) -> None:
    """Two nodes of Asterisk; config_file.py refuses FreeSWITCH, and says why."""
    nodes: dict[Asterisk | FreeSwitch, str] = {
        lab.asterisk("a"): "east",
        lab.asterisk("b"): "west",
    }
    dtls = {"security": {"media": "dtls-srtp"}}
    with PhoneFleet(lab, nodes, lab.redis(), encrypted=True, settings=dtls) as fleet:
        fleet.begin()
        low = fleet.phone("1001", "east", tone_hz=LOW_HZ)
        high = fleet.phone("2002", "west", tone_hz=HIGH_HZ)
        addresses = [n.address for n in (*fleet.nodes.values(), low, high)]
        with listening(fleet.lab.run, addresses) as seen:
            assert_they_talk(low, "2002", high)
        assert len(seen.media()) > 100
        speech = stretches(low.said) | stretches(high.said)
        assert seen.readable(speech, [n.address for n in fleet.nodes.values()]) == 0
        # A baresip that is called sends its very first packet before its handshake is over.
        assert seen.readable(speech) <= 2
        assert "inline:" not in low.log_end(2000) + high.log_end(2000)
        assert_attested(fleet, high, "1001", low)
        store, node = open_store(fleet.config), fleet.nodes["b"]
        pair = load_pair(store.folder / "sip" / "b.pem", store.folder / "sip" / "b.key")
        peer = context(store.ca("sip"), pair, fleet.folder)
        a = fleet.config.nodes["a"].sip
        for offer in (("RTP/AVP", ""), ("RTP/AVP", FINGERPRINT), GOOD_SDP):
            code = final_response(a, "9500", peer, source=node.address, sdp=offer)
            assert code == 488, offer


TLS_VERSIONS = [v for v in ssl.TLSVersion if v.name.startswith("TLSv")]


@pytest.mark.parametrize(
    "kind", ["asterisk", pytest.param("freeswitch", marks=pytest.mark.freeswitch)]
)
def test_old_desk_phones_have_tls_1_2_where_the_config_says_so(lab: Lab, kind: str) -> None:
    """They and trunks still speak 1.3, and nobody anything older."""
    node = lab.asterisk("n") if kind == "asterisk" else lab.freeswitch("n")
    settings = {"phones": {"tls_min": "1.2"}}
    with PhoneFleet(lab, {node: "east"}, lab.redis(), encrypted=True, settings=settings) as fleet:
        put_rendered(fleet.config, node)
        told = fleet.config.nodes["n"]
        store = open_store(fleet.config)
        pair = load_pair(store.folder / "sip" / "n.pem", store.folder / "sip" / "n.key")
        for sip, versions in ((told.phones_sip, {"TLSv1.2", "TLSv1.3"}), (told.sip, {"TLSv1.3"})):
            spoken = set()
            for version in TLS_VERSIONS:
                tls = context(store.ca("sip"), pair, fleet.folder)
                tls.set_ciphers("ALL:@SECLEVEL=0")  # else Python itself refuses the oldest
                tls.minimum_version = tls.maximum_version = version
                host, port = sip.split(":")
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection((host, int(port)), 2) as plain,
                    tls.wrap_socket(plain, server_hostname=host) as link,
                ):
                    spoken.add(link.version())
            assert spoken == versions


@pytest.mark.parametrize("region", ["east", pytest.param("south", marks=pytest.mark.freeswitch)])
def test_a_phone_that_offers_clear_media_is_refused(fleet: PhoneFleet, region: str) -> None:
    name = {"east": "3201", "south": "3202"}[region]
    files = fleet.add(name, region).files
    fleet.until_ready(name)
    clear = files["baresip/accounts"].replace(";mediaenc=srtp-mand", "")
    assert clear != files["baresip/accounts"]
    phone = fleet.lab.phone(f"phone-{name}", files | {"baresip/accounts": clear})
    phone.wait_registered()
    phone.dial("9500")
    assert "488" in phone.wait("CALL_CLOSED", 8)["param"]
    assert not phone.saw("CALL_ESTABLISHED")


def test_a_phone_talks_to_no_node_of_another_authority(fleet: PhoneFleet) -> None:
    """Nor shows it its password, which would be worth stealing."""
    files = fleet.add("3203", "east").files
    fleet.until_ready("3203")
    foreign = make_authority("lab", "sip", dt.datetime.now(dt.UTC)).certificate_pem().decode()
    phone = fleet.lab.phone("phone-3203", files | {"ca.pem": foreign})
    until(lambda: "verify_handler: err" in phone.log_end(400), 8, "the node is refused")
    assert "200 OK" not in phone.log_end(400)
    assert not fleet.where("3203")
