"""Certificates for a machine whose private keys never leave it.

    on the node         `request`   makes the keys, and a file of certificate signing requests
    at the authorities  `sign`      answers it by a file of certificates, and drops keys that it had
    on the node         `accept`    puts those beside the keys

Neither file holds a secret. What stands in a certificate comes from the config at the authorities:
of a request nothing is believed but its name and the key that it was signed with.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controller.config import Config
from controller.errors import UsageError
from controller.pki import authority as signing
from controller.pki.store import open_store
from controller.pki.wanted import AUTHORITIES, ROLES, AuthorityName, wanted_by

FILE_BYTES_MAX = 1 << 20

T = TypeVar("T", "Request", "Signed")


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """pem: the request, as PEM."""

    authority: AuthorityName
    name: str
    pem: str


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="request"):
    """What one node or edge asks for."""

    fleet: str
    machine: str
    asked: list[Asked]


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="certificates"):
    """authorities: their own certificates, by name. signed: of what was asked."""

    fleet: str
    machine: str
    authorities: dict[AuthorityName, str]
    signed: list[Asked]


def request(config: Config, machine: str) -> bytes:
    """Makes the keys that are not there yet; answers the file for `sign`."""
    if machine not in config.nodes and machine not in config.edges:
        known = ", ".join([*config.nodes, *config.edges])
        raise UsageError(f"there is no node or edge {machine!r}", hint=f"known: {known}")
    store = open_store(config)
    asked = [
        Asked(
            want.authority, want.name, _request(store.own_key(want.authority, want.name), want.name)
        )
        for want in wanted_by(config, machine)
    ]
    return _written(Request(config.fleet, machine, asked))


def sign(config: Config, data: bytes, now: dt.datetime) -> bytes:
    """Answers a request. Raises UsageError for what is none, or is for what its machine may not
    have; PbxctlError where an authority's key is not here."""
    asks = _read(data, Request, "request")
    _same_fleet(config, asks.fleet)
    allowed = {(w.authority, w.name): w for w in wanted_by(config, asks.machine)}
    if asks.machine not in config.nodes and asks.machine not in config.edges:
        raise UsageError(
            f"the config has no node or edge {asks.machine[:64]!r}", hint="add it here first"
        )
    store, signed, away = open_store(config), [], []
    for each in asks.asked:
        want = allowed.get((each.authority, each.name))
        if want is None:
            raise UsageError(
                f"{asks.machine} asks for {each.authority}/{each.name[:64]}, which is not its own",
                hint="sign nothing of this file, and find out where it comes from",
            )
        certificate = signing.sign(
            store.signer(want.authority, now), _key_of(each), want.name, want.addresses, now,
            days=signing.MACHINE_DAYS, server=want.server, client=want.client,
        )  # fmt: skip
        if want.name not in ROLES:  # each machine's agent has a key of its own, under one name
            away.append((want, certificate))
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        signed.append(Asked(want.authority, want.name, pem.decode("ascii")))
    for want, certificate in away:
        store.keep_away(want, certificate)
    authorities = {a: store.ca(a).read_text("ascii") for a in _of(signed)}
    return _written(Signed(config.fleet, asks.machine, authorities, signed))


def accept(config: Config, data: bytes) -> list[str]:
    """Keeps signed certificates beside their keys; answers authority/name of each. All of them are
    checked before the first is written."""
    told = _read(data, Signed, "answer")
    _same_fleet(config, told.fleet)
    store, new = open_store(config), []
    own = {(w.authority, w.name) for w in wanted_by(config, told.machine)}
    for each in told.signed:
        if (each.authority, each.name) not in own:
            raise UsageError(f"{each.authority}/{each.name[:64]} is not of {told.machine[:64]}")
        if each.authority not in told.authorities:
            raise UsageError(f"the file has no certificate of the authority {each.authority}")
        authority = _certificate(told.authorities[each.authority])
        certificate = _certificate(each.pem)
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise UsageError(
                f"{each.authority}/{each.name[:64]} is not signed by its authority"
            ) from error
        new.append((each, authority, certificate))
    for each, authority, certificate in new:
        store.check(each.authority, each.name, authority, certificate)
    for each, authority, certificate in new:
        store.keep_signed(each.authority, each.name, authority, certificate)
    return [f"{each.authority}/{each.name}" for each, _, _ in new]


def _request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _key_of(asked: Asked) -> ec.EllipticCurvePublicKey:
    """The key of a request that was signed with it: whoever asks has its private half."""
    what = f"{asked.authority}/{asked.name}"
    try:
        found = x509.load_pem_x509_csr(asked.pem.encode())
        key = found.public_key()
    except ValueError as error:
        raise UsageError(f"the request for {what} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UsageError(f"the request for {what} has no P-256 key")
    if not found.is_signature_valid:
        raise UsageError(f"the request for {what} is not signed with its own key")
    return key


def _certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise UsageError(f"a certificate of the file cannot be read: {error}") from error


def _of(signed: Sequence[Asked]) -> list[AuthorityName]:
    return [a for a in AUTHORITIES if any(each.authority == a for each in signed)]


def _same_fleet(config: Config, fleet: str) -> None:
    if fleet != config.fleet:
        raise UsageError(f"the file is of the fleet {fleet[:64]!r}, the config of {config.fleet!r}")


def _read(data: bytes, kind: type[T], what: str) -> T:
    try:
        if len(data) > FILE_BYTES_MAX:
            raise msgspec.DecodeError(f"more than {FILE_BYTES_MAX >> 20} MiB")
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the file is no {what} of pbxctl pki: {error}") from error


def _written(value: Request | Signed) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
