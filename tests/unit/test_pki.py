"""Certificates: who can stand in for whom, what is renewed, and what a half-done write leaves."""

from __future__ import annotations

import datetime as dt
import errno
import os
import shutil
import ssl
import tempfile
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry, Gauge

from controller.config import Config, PhonesConfig
from controller.config_file import parse
from controller.doctor.certificates import check_certificates, judge_certificate
from controller.doctor.finding import Level
from controller.errors import ConfigError, NotFound, PbxctlError, UsageError
from controller.pki import contexts
from controller.pki.store import Store, open_store, person, renew_due
from controller.pki.wanted import wanted
from controller.roles.renewal import Renewal

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
TEXT = """
fleet: demo
regions: {eu: {}}
nodes:
  ast: {kind: asterisk, region: eu, sip: "192.0.2.1:5061", control: "10.0.0.1:5039",
        password_file: pw, names: [ast.example.net]}
edges:
  kam: {region: eu, sip: "[2001:db8::9]:5061"}
gate: {listen: "127.0.0.1:8443", names: [gate.example.net]}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "pw").write_text("x\n")
    (tmp_path / "pw").chmod(0o600)
    made = parse(TEXT, str(tmp_path / "pbxctl.yaml"))
    renew_due(made, NOW)
    return made


def shake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    """A whole handshake in memory. Raises what either side objects to."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=host)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(6):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    # TLS 1.3: the client learns of a refused certificate with the first bytes it reads.
    far.write(b"hello")
    assert near.read() == b"hello"


def test_a_person_reaches_the_gate_by_each_of_its_names(config: Config) -> None:
    store = open_store(config)
    store.renew([person("alice")], NOW)
    gate = contexts.server(config, "gate", clients="people").context
    for host in ("127.0.0.1", "gate.example.net"):
        shake(as_person(config, "alice"), gate, host)
    with pytest.raises(ssl.SSLError):
        shake(as_person(config, "alice"), gate, "127.0.0.2")


def as_person(config: Config, name: str) -> ssl.SSLContext:
    store = open_store(config)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(store.ca("control"))
    made.load_cert_chain(store.certificate("people", name), store.key("people", name))
    return made


@pytest.mark.parametrize(("authority", "name"), [("sip", "ast"), ("control", "driver")])
def test_a_node_or_a_role_is_nobody_at_the_gate(config: Config, authority: str, name: str) -> None:
    gate = contexts.server(config, "gate", clients="people").context
    folder = open_store(config).folder
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.load_verify_locations(folder / "control" / "ca.pem")
    with pytest.raises(ssl.SSLError):
        shake(stranger, gate, "127.0.0.1")
    stranger.load_cert_chain(folder / authority / f"{name}.pem", folder / authority / f"{name}.key")
    with pytest.raises(ssl.SSLError):
        shake(stranger, gate, "127.0.0.1")


def test_older_tls_is_refused(config: Config) -> None:
    open_store(config).renew([person("alice")], NOW)
    old = as_person(config, "alice")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(old, contexts.server(config, "gate", clients="people").context, "127.0.0.1")


def test_a_revoked_person_is_refused_by_a_gate_that_runs(config: Config) -> None:
    store = open_store(config)
    store.renew([person("alice"), person("bob"), person("carol")], NOW)
    alice, bob, carol = (as_person(config, name) for name in ("alice", "bob", "carol"))
    gate = contexts.server(config, "gate", clients="people")
    for name, revoked, good in (("alice", [alice], [bob, carol]), ("bob", [alice, bob], [carol])):
        store.revoke("people", name, dt.datetime.now(dt.UTC))
        assert gate.refresh()
        for each in revoked:
            with pytest.raises(ssl.SSLError):
                shake(each, gate.context, "127.0.0.1")
        for each in good:
            shake(each, gate.context, "127.0.0.1")
    with pytest.raises(NotFound):
        store.revoke("people", "alice", NOW)


def test_who_is_revoked_is_so_with_every_certificate_that_was_renewed(config: Config) -> None:
    store, alice = open_store(config), person("alice", ("auditor",))
    held = []
    for _ in range(3):
        store.renew([alice], NOW, force=True)
        held.append(as_person(config, "alice"))
    gate = contexts.server(config, "gate", clients="people")
    for each in held:
        shake(each, gate.context, "127.0.0.1")
    store.revoke("people", "alice", dt.datetime.now(dt.UTC))
    assert gate.refresh()
    for each in held:
        with pytest.raises(ssl.SSLError):
            shake(each, gate.context, "127.0.0.1")
    store.renew([alice], NOW)
    shake(as_person(config, "alice"), gate.context, "127.0.0.1")


def test_an_authority_that_was_replaced_lets_nobody_in_any_more(config: Config) -> None:
    """Its key was stolen: docs/pki.md."""
    store = open_store(config)
    store.renew([person("alice"), person("bob")], NOW)
    alice = as_person(config, "alice")
    gate = contexts.server(config, "gate", clients="people")
    store.revoke("people", "bob", NOW)
    assert gate.refresh()
    shake(alice, gate.context, "127.0.0.1")
    shutil.rmtree(store.folder / "people")
    store.renew([*wanted(config), person("alice")], NOW)
    assert gate.refresh()
    shake(as_person(config, "alice"), gate.context, "127.0.0.1")
    with pytest.raises(ssl.SSLError):
        shake(alice, gate.context, "127.0.0.1")


def test_nothing_is_made_twice_and_what_is_due_is_renewed(config: Config) -> None:
    assert renew_due(config, NOW) == []
    assert renew_due(config, NOW + 55 * DAY) == []
    made = renew_due(config, NOW + 61 * DAY)
    assert {(w.authority, w.name) for w in made} == {(w.authority, w.name) for w in wanted(config)}


def test_another_address_makes_another_certificate(config: Config, tmp_path: Path) -> None:
    moved = parse(TEXT.replace("192.0.2.1", "192.0.2.77"), str(tmp_path / "pbxctl.yaml"))
    assert [w.name for w in renew_due(moved, NOW)] == ["ast"]
    names = alternative(open_store(config), "ast")
    assert names == {"192.0.2.77", "ast.example.net"}


def alternative(store: Store, name: str) -> set[str]:
    raw = x509.load_pem_x509_certificate(store.certificate("sip", name).read_bytes())
    extension = raw.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(each.value) for each in extension.value}


def test_keys_are_closed_and_no_torn_file_stays(config: Config) -> None:
    folder = open_store(config).folder
    for key in folder.rglob("*.key"):
        assert key.stat().st_mode & 0o777 == 0o600
    for place in (folder, *(p for p in folder.iterdir() if p.is_dir())):
        assert place.stat().st_mode & 0o777 == 0o700
    assert not [p for p in folder.rglob(".*") if p.name != ".lock"]


def test_a_torn_pair_leaves_the_loaded_one(config: Config) -> None:
    store = open_store(config)
    identity = contexts.client(config, "driver")
    key, other = store.key("control", "driver"), store.key("control", "agent")
    good = key.read_bytes()
    key.write_bytes(other.read_bytes())
    assert not identity.refresh()
    key.write_bytes(good)
    assert identity.refresh()
    assert not identity.refresh()


def test_without_the_authoritys_key_files_are_used_as_they_are(config: Config) -> None:
    store = open_store(config)
    store.key("sip", "ca").unlink()
    assert "ast" not in [w.name for w in renew_due(config, NOW + 61 * DAY)]
    store.certificate("sip", "ast").unlink()
    with pytest.raises(UsageError, match="cannot be signed"):
        renew_due(config, NOW)


def test_an_authority_is_never_made_anew_over_its_key(config: Config) -> None:
    open_store(config).ca("sip").unlink()
    with pytest.raises(PbxctlError, match="is there, but not"):
        renew_due(config, NOW)


def test_missing_files_are_one_clear_error(config: Config) -> None:
    open_store(config).key("control", "driver").unlink()
    with pytest.raises(ConfigError, match=r"driver\.pem") as caught:
        contexts.client(config, "driver")
    assert "pki renew" in caught.value.hint


@pytest.mark.parametrize("name", ["", "ca", "../x", "a/b", ".x", "a\nb", "a" * 65, "ä"])
def test_a_person_cannot_be_called_anything(name: str) -> None:
    with pytest.raises(UsageError):
        person(name)


def test_the_doctor_warns_three_weeks_ahead(config: Config) -> None:
    kept = next(k for k in open_store(config).kept() if k.name == "ast")
    ends = kept.certificate.not_valid_after_utc
    assert judge_certificate(kept, ends - 22 * DAY).level is Level.OK
    assert judge_certificate(kept, ends - 20 * DAY).level is Level.WARN
    assert judge_certificate(kept, ends + DAY).level is Level.FAIL


def test_the_doctor_reminds_of_tls_1_2(config: Config) -> None:
    old = msgspec.structs.replace(config, phones=PhonesConfig(tls_min="1.2"))
    assert [f.check for f in check_certificates(old) if f.level is Level.WARN] == ["tls"]


def test_the_doctor_sees_open_keys_and_missing_certificates(config: Config) -> None:
    assert {f.level for f in check_certificates(config)} == {Level.OK}
    store = open_store(config)
    store.key("sip", "ast").chmod(0o644)
    store.certificate("sip", "kam").unlink()
    bad = [f for f in check_certificates(config) if f.level is Level.FAIL]
    assert {f.check for f in bad} == {"key", "certificate sip/kam"}


async def test_a_full_disk_does_not_end_the_steward(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(**_: object) -> tuple[int, str]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = open_store(config)
    store.certificate("control", "driver").unlink()
    registry = CollectorRegistry()
    renewal = Renewal(config, Gauge("expires", "", ["authority", "name"], registry=registry))
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "mkstemp", full)
        await renewal.step()
    assert "certificates are not renewed: No space left" in caplog.text
    told = {"authority": "control", "name": "ca"}
    assert registry.get_sample_value("expires", told)
