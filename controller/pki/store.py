"""The certificates on disk: FOLDER/AUTHORITY/NAME.pem and NAME.key; the authority itself is `ca`.

Keys are 0600 in folders that only their owner enters. `ca.key` is not encrypted, so that renewal
needs nobody; who wants it elsewhere moves it away: then nothing is signed here, and the files that
are put here by hand are used as they are. That is also how an operator's own authority is taken
in: its certificate as ca.pem, with its key or with certificates that it has signed.

Invariant: a pair is replaced key first, and a reader that finds the two apart reads again.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller.config import Config
from controller.durable import replace
from controller.errors import NotFound, PbxctlError, UsageError
from controller.pki.authority import (
    MACHINE_DAYS,
    PERSON_DAYS,
    Pair,
    alternative_names,
    is_due,
    issue,
    key_pem,
    make_authority,
    new_key,
    revocations,
    roles_in,
)
from controller.pki.wanted import AUTHORITIES, AuthorityName, Wanted, wanted

_NAME_MAX = 64  # X.520: a common name has 64 characters at most


@dataclass(frozen=True)
class Kept:
    """A certificate on disk. name "ca" is the authority itself."""

    authority: AuthorityName
    name: str
    certificate: x509.Certificate

    @property
    def roles(self) -> tuple[str, ...]:
        """What a person may; of a machine none."""
        return roles_in(self.certificate)

    def expires_s(self, now: dt.datetime) -> float:
        """Seconds until it ends, negative when it has."""
        return (self.certificate.not_valid_after_utc - now).total_seconds()


class Store:
    """The certificate files of one fleet."""

    def __init__(self, folder: Path, fleet: str) -> None:
        self.folder = folder
        self._fleet = fleet

    def certificate(self, authority: AuthorityName, name: str) -> Path:
        return self.folder / authority / f"{name}.pem"

    def key(self, authority: AuthorityName, name: str) -> Path:
        return self.folder / authority / f"{name}.key"

    def ca(self, authority: AuthorityName) -> Path:
        return self.certificate(authority, "ca")

    def revoked(self, authority: AuthorityName) -> Path:
        """The authority's revocation list; absent while nothing was revoked."""
        return self.folder / authority / "revoked.crl"

    def kept(self) -> list[Kept]:
        """Every certificate there is, authorities first. Raises PbxctlError for an unreadable."""
        return [
            Kept(authority, path.stem, _read_certificate(path))
            for authority in AUTHORITIES
            for path in sorted(
                (self.folder / authority).glob("*.pem"), key=lambda p: (p.stem != "ca", p.stem)
            )
        ]

    def renew(
        self, asked: Collection[Wanted], now: dt.datetime, *, force: bool = False
    ) -> list[Wanted]:
        """Makes what is missing, is due, or no longer fits; answers what it made.

        An authority is made only where its folder has no certificate at all. A certificate whose
        authority's key is not here is left as it is; UsageError when it is missing or forced.
        """
        made = []
        with self._locked():
            authorities = {name: self._authority(name, now) for name in AUTHORITIES}
            for want in asked:
                if self._is_elsewhere(want):
                    if not force:
                        continue
                    raise UsageError(
                        f"the key of {want.authority}/{want.name} is on its own machine",
                        hint="there: pbxctl pki request; here: pbxctl pki sign",
                    )
                if not force and self._fits(want, now):
                    continue
                authority = authorities[want.authority]
                if authority is None:
                    if not force and self.certificate(want.authority, want.name).exists():
                        continue
                    raise UsageError(
                        f"{want.authority}/{want.name} cannot be signed: "
                        f"{self.key(want.authority, 'ca')} is not here",
                        hint="put a certificate made elsewhere into that folder, or the key",
                    )
                pair = issue(
                    authority, want.name, want.addresses, now,
                    days=PERSON_DAYS if want.authority == "people" else MACHINE_DAYS,
                    server=want.server, client=want.client, roles=want.roles,
                )  # fmt: skip
                if want.authority == "people":
                    self._keep_former(want.name, now)
                self._keep(want.authority, want.name, pair)
                made.append(want)
        return made

    def revoke(self, authority: AuthorityName, name: str, now: dt.datetime) -> None:
        """Puts it on the authority's list, with those that it took the place of, and removes its
        files. NotFound when there is none."""
        path = self.certificate(authority, name)
        if not path.exists() or name == "ca":
            raise NotFound(f"there is no certificate {authority}/{name}", hint="pbxctl pki list")
        with self._locked():
            signer = self._authority(authority, now)
            if signer is None:
                raise UsageError(
                    f"the list cannot be signed: {self.key(authority, 'ca')} is not here",
                    hint="revoke it where the authority's key is",
                )
            listed = self.revoked(authority)
            before = x509.load_pem_x509_crl(listed.read_bytes()) if listed.exists() else None
            gone = [_read_certificate(path), *self._formers(authority, name, now)]
            serials = [certificate.serial_number for certificate in gone]
            replace(listed, revocations(signer, serials, before, now), 0o644)
            self._former(authority, name).unlink(missing_ok=True)
            path.unlink()
            self.key(authority, name).unlink(missing_ok=True)

    def _former(self, authority: AuthorityName, name: str) -> Path:
        """Certificates that were renewed and have not ended: whoever has one still comes in."""
        return self.folder / authority / f"{name}.former"

    def _formers(
        self, authority: AuthorityName, name: str, now: dt.datetime
    ) -> list[x509.Certificate]:
        path = self._former(authority, name)
        if not path.exists():
            return []
        kept = x509.load_pem_x509_certificates(path.read_bytes())
        return [certificate for certificate in kept if certificate.not_valid_after_utc > now]

    def _keep_former(self, name: str, now: dt.datetime) -> None:
        path = self.certificate("people", name)
        if path.exists():
            former = [*self._formers("people", name, now), _read_certificate(path)]
            pem = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in former)
            replace(self._former("people", name), pem, 0o644)

    def own_key(self, authority: AuthorityName, name: str) -> ec.EllipticCurvePrivateKey:
        """The key of a certificate that is asked for elsewhere, made where there is none."""
        with self._locked():
            path = self.key(authority, name)
            if not path.exists():
                made = new_key()
                replace(path, key_pem(made), 0o600)
                return made
            return _read_key(path)

    def signer(self, authority: AuthorityName, now: dt.datetime) -> Pair:
        """An authority with its key. UsageError where that is not here."""
        pair = None
        if self.ca(authority).exists():  # else it would be made here
            with self._locked():
                pair = self._authority(authority, now)
        if pair is None:
            raise UsageError(
                f"nothing can be signed: {self.key(authority, 'ca')} is not here",
                hint="run this where the authority's key is",
            )
        return pair

    def keep_away(self, want: Wanted, certificate: x509.Certificate) -> None:
        """Of a certificate whose key is on its own machine: what it shows, and no key here."""
        with self._locked():
            pem = certificate.public_bytes(serialization.Encoding.PEM)
            replace(self._elsewhere(want), b"", 0o644)
            replace(self.certificate(want.authority, want.name), pem, 0o644)
            self.key(want.authority, want.name).unlink(missing_ok=True)

    def _elsewhere(self, want: Wanted) -> Path:
        return self.folder / want.authority / f"{want.name}.elsewhere"

    def _is_elsewhere(self, want: Wanted) -> bool:
        return self._elsewhere(want).exists()

    def check(
        self,
        authority: AuthorityName,
        name: str,
        signer: x509.Certificate,
        certificate: x509.Certificate,
    ) -> None:
        """UsageError when `keep_signed` must not be done: no key here fits the certificate, or the
        folder has another authority."""
        key = self.key(authority, name)
        if not key.exists() or _read_key(key).public_key() != certificate.public_key():
            raise UsageError(
                f"{authority}/{name[:_NAME_MAX]} was not asked for here: its key is not {key}",
                hint="take the file to the machine that asked, or ask anew: pbxctl pki request",
            )
        ca = self.ca(authority)
        if ca.exists() and _read_certificate(ca) != signer:
            raise UsageError(
                f"{authority}/{name} is signed by another authority than {ca}",
                hint=f"if the fleet has a new authority, remove {ca} first",
            )

    def keep_signed(
        self,
        authority: AuthorityName,
        name: str,
        signer: x509.Certificate,
        certificate: x509.Certificate,
    ) -> None:
        with self._locked():
            for path, each in (
                (self.ca(authority), signer),
                (self.certificate(authority, name), certificate),
            ):
                replace(path, each.public_bytes(serialization.Encoding.PEM), 0o644)

    def _authority(self, name: AuthorityName, now: dt.datetime) -> Pair | None:
        path, key = self.ca(name), self.key(name, "ca")
        if not path.exists():
            if key.exists():
                raise PbxctlError(f"{key} is there, but not {path}", hint="put it back")
            pair = make_authority(self._fleet, name, now)
            self._keep(name, "ca", pair)
            return pair
        if not key.exists():
            return None
        return Pair(_read_certificate(path), _read_key(key))

    def _fits(self, want: Wanted, now: dt.datetime) -> bool:
        path = self.certificate(want.authority, want.name)
        if not path.exists() or not self.key(want.authority, want.name).exists():
            return False
        certificate = _read_certificate(path)
        if is_due(certificate, now):
            return False
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            named = list(extension.value)
        except x509.ExtensionNotFound:
            named = []
        return set(alternative_names(want.addresses)) <= set(named)

    def _keep(self, authority: AuthorityName, name: str, pair: Pair) -> None:
        replace(self.key(authority, name), pair.key_pem(), 0o600)
        replace(self.certificate(authority, name), pair.certificate_pem(), 0o644)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Two stewards, or a steward and an operator, must not both make an authority."""
        try:
            for folder in (self.folder, *(self.folder / name for name in AUTHORITIES)):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise PbxctlError(
                f"{error.filename or self.folder} cannot be written: {error.strerror}",
                hint="run as the owner of that folder, or set pki.folder",
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def open_store(config: Config) -> Store:
    return Store(config.path(config.pki.folder), config.fleet)


def renew_due(config: Config, now: dt.datetime) -> list[Wanted]:
    """Makes and renews what the config's machines need; answers what was made."""
    return open_store(config).renew(wanted(config), now)


def person(name: str, roles: tuple[str, ...] = ()) -> Wanted:
    """A person's certificate. UsageError when nobody can be called so."""
    if not 0 < len(name) <= _NAME_MAX or name == "ca" or not name.isascii():
        raise UsageError(f"{name!r} is no name", hint=f"1 to {_NAME_MAX} letters and digits")
    if not all(c.isalnum() or c in "._-@" for c in name) or name.startswith("."):
        raise UsageError(f"{name!r} is no name", hint="letters, digits and . _ - @")
    return Wanted("people", name, roles=roles)


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PbxctlError(
            f"{path} is no certificate: {error}", hint="PEM; remove it to have a new one made"
        ) from error


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise PbxctlError(f"{path} is no key: {error}", hint="PEM, without a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PbxctlError(f"{path} is no elliptic-curve key", hint="P-256 is what all parts take")
    return key
