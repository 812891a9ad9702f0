"""Certificates for a machine whose keys stay there: what is signed, what is refused."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from controller.config import Config
from controller.config_file import parse
from controller.errors import UsageError
from controller.pki import requests
from controller.pki.requests import Asked, Request, accept, request, sign
from controller.pki.store import open_store, renew_due
from controller.pki.wanted import wanted
from controller.render.certificates import tls_files
from tests.unit.test_pki import NOW, TEXT, shake

DAY = dt.timedelta(days=1)


def machine(folder: Path) -> Config:
    folder.mkdir()
    (folder / "pw").write_text("x\n")
    (folder / "pw").chmod(0o600)
    return parse(TEXT, str(folder / "pbxctl.yaml"))


@pytest.fixture
def ca(tmp_path: Path) -> Config:
    config = machine(tmp_path / "ca")
    renew_due(config, NOW)
    return config


@pytest.fixture
def node(tmp_path: Path) -> Config:
    return machine(tmp_path / "node")


def keys(config: Config) -> dict[str, bytes]:
    folder = open_store(config).folder
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.key")}


@pytest.mark.parametrize("name", ["ast", "kam"])
def test_a_node_is_rendered_with_keys_that_never_left_it(
    ca: Config, node: Config, name: str
) -> None:
    asked = request(node, name)
    answer = sign(ca, asked, NOW)
    own = keys(node)
    for data in (asked, answer):
        assert b"PRIVATE" not in data
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in open_store(node).folder.rglob("*.key"))
    assert f"sip/{name}" in accept(node, answer)
    assert keys(node) == own
    assert not set(own.values()) & set(keys(ca).values())
    assert f"sip/{name}.key" not in keys(ca), "the authority has no key of that machine any more"
    assert tls_files(node, name)["tls/sip.pem"].text == (
        open_store(ca).certificate("sip", name).read_text()
    )


def test_such_a_certificate_is_taken_by_the_fleet(ca: Config, node: Config) -> None:
    accept(node, sign(ca, request(node, "ast"), NOW))
    here, there = open_store(node), open_store(ca)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(here.certificate("sip", "ast"), here.key("sip", "ast"))
    server.load_verify_locations(here.ca("sip"))
    server.verify_mode = ssl.CERT_REQUIRED
    for host in ("192.0.2.1", "ast.example.net"):
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_verify_locations(there.ca("sip"))
        client.load_cert_chain(there.certificate("sip", "kam"), there.key("sip", "kam"))
        shake(client, server, host)


def test_the_authority_does_not_renew_over_it_and_the_node_asks_again(
    ca: Config, node: Config
) -> None:
    accept(node, sign(ca, request(node, "ast"), NOW))
    before, later = keys(node), NOW + 80 * DAY
    assert "ast" not in [w.name for w in renew_due(ca, later)]
    with pytest.raises(UsageError, match="on its own machine"):
        open_store(ca).renew([w for w in wanted(ca) if w.name == "ast"], later, force=True)
    accept(node, sign(ca, request(node, "ast"), later))
    (kept,) = [k for k in open_store(node).kept() if k.name == "ast"]
    assert kept.expires_s(later) > 80 * 86_400
    assert keys(node) == before


def changed(data: bytes, **values: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(data) | values)


def test_a_machine_gets_nothing_but_its_own(ca: Config, node: Config) -> None:
    asked = msgspec.json.decode(request(node, "ast"), type=Request)
    pem = asked.asked[0].pem
    before = {p: p.read_bytes() for p in open_store(ca).folder.rglob("*.*")}
    for authority, name in (
        ("sip", "kam"), ("sip", "ca"), ("control", "driver"), ("control", "gate"),
        ("people", "alice"), ("sip", "../control/agent"),
    ):  # fmt: skip
        greedy = msgspec.structs.replace(asked, asked=[*asked.asked, Asked(authority, name, pem)])  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            sign(ca, msgspec.json.encode(greedy), NOW)
    assert {p: p.read_bytes() for p in open_store(ca).folder.rglob("*.*")} == before


def test_what_is_no_request_is_refused(ca: Config, node: Config) -> None:
    good = request(node, "ast")
    flipped = good.replace(b"BEGIN CERTIFICATE REQUEST", b"BEGIN NOTHING AT ALL")
    for bad in (
        b"", b"{}", b"\xff", b"[" * 100_000, good[:-20], flipped, b" " * (2 << 20),
        changed(good, fleet="other"), changed(good, machine="nobody"), changed(good, more=1),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            sign(ca, bad, NOW)


def test_a_request_that_another_key_signed_is_refused(ca: Config, node: Config) -> None:
    asked = msgspec.json.decode(request(node, "ast"), type=Request)
    large = requests._request(ec.generate_private_key(ec.SECP384R1()), "ast")
    lines = asked.asked[0].pem.splitlines()
    lines[-2] = lines[-2][::-1]  # of the signature
    for pem in (large, "\n".join(lines) + "\n"):
        bad = msgspec.structs.replace(asked, asked=[Asked("sip", "ast", pem)])
        with pytest.raises(UsageError):
            sign(ca, msgspec.json.encode(bad), NOW)


def test_where_no_authority_is_none_is_made(node: Config, tmp_path: Path) -> None:
    other = machine(tmp_path / "other")
    with pytest.raises(UsageError, match="nothing can be signed"):
        sign(other, request(node, "ast"), NOW)
    assert not open_store(other).ca("sip").exists()


def test_certificates_of_others_are_not_accepted(ca: Config, node: Config, tmp_path: Path) -> None:
    answer = sign(ca, request(node, "ast"), NOW)
    elsewhere = machine(tmp_path / "elsewhere")
    request(elsewhere, "ast")
    with pytest.raises(UsageError, match="was not asked for here"):
        accept(elsewhere, answer)
    assert not open_store(elsewhere).ca("sip").exists()
    accept(node, answer)
    impostor = machine(tmp_path / "impostor")
    renew_due(impostor, NOW)
    with pytest.raises(UsageError, match="another authority"):
        accept(node, sign(impostor, request(node, "ast"), NOW))
