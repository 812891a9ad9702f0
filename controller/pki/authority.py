"""Signs certificates: ECDSA on P-256, which every TLS 1.3 peer must know (RFC 8446, 9.1).

Everything here is a pure function of its arguments but for the keys, which are random.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
#: renewed when a third is left; operators renew by hand, so theirs last longer
MACHINE_DAYS = 90
PERSON_DAYS = 365
#: clocks that run behind must not refuse a certificate that was just made
BACKDATED = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        return key_pem(self.key)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Not encrypted: PBXs read it unattended. The file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def make_authority(fleet: str, name: str, now: dt.datetime) -> Pair:
    """A self-signed authority that can sign leaves alone, no further authorities."""
    key = new_key()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"pbxctl {fleet}"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{fleet} {name}"),
        ]
    )
    certificate = (
        _builder(subject, key.public_key(), now)
        .not_valid_after(now + dt.timedelta(days=AUTHORITY_DAYS))
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate, key)


def issue(
    authority: Pair,
    name: str,
    addresses: Iterable[str],
    now: dt.datetime,
    *,
    days: int,
    server: bool,
    client: bool,
    roles: Iterable[str] = (),
) -> Pair:
    """A certificate with `name` as its common name. addresses: IPs and DNS names it answers to.

    roles: organizational units of its subject.
    """
    key = new_key()
    signed = sign(
        authority, key.public_key(), name, addresses, now,
        days=days, server=server, client=client, roles=roles,
    )  # fmt: skip
    return Pair(signed, key)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def sign(
    authority: Pair,
    key: ec.EllipticCurvePublicKey,
    name: str,
    addresses: Iterable[str],
    now: dt.datetime,
    *,
    days: int,
    server: bool,
    client: bool,
    roles: Iterable[str] = (),
) -> x509.Certificate:
    """As `issue`, for a key whose private half is elsewhere."""
    issuer = authority.certificate
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role) for role in roles]
    subject = x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, name)])
    # A leaf that outlives its authority would fail on a day that nobody watches.
    ends = min(now + dt.timedelta(days=days), issuer.not_valid_after_utc)
    builder = (
        _builder(subject, key, now)
        .not_valid_after(ends)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    if alternatives := alternative_names(addresses):
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def alternative_names(addresses: Iterable[str]) -> list[x509.GeneralName]:
    """Each address once, IPs as IPs: a client that dials an IP looks for no DNS name (RFC 9525)."""
    found: list[x509.GeneralName] = []
    for address in dict.fromkeys(addresses):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(address)))
        except ValueError:
            found.append(x509.DNSName(address))
    return found


def revocations(
    authority: Pair,
    serials: Iterable[int],
    before: x509.CertificateRevocationList | None,
    now: dt.datetime,
) -> bytes:
    """The authority's signed list with more certificates on it, as PEM.

    It is younger than the one before by a second at least: a list of the same second would not
    take its place in a server that runs.
    """
    issued = now - BACKDATED
    if before is not None and before.last_update_utc >= issued.replace(microsecond=0):
        issued = before.last_update_utc + dt.timedelta(seconds=1)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(issued)
        .next_update(authority.certificate.not_valid_after_utc)
    )
    for listed in before or ():
        builder = builder.add_revoked_certificate(listed)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def roles_in(certificate: x509.Certificate) -> tuple[str, ...]:
    """As `issue` was given them."""
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return tuple(str(unit.value) for unit in units)


def is_due(certificate: x509.Certificate, now: dt.datetime) -> bool:
    """Whether less than a third of its life is left."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now > ends - (ends - begins) / 3


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
