"""TLS contexts of the fleet's certificates: 1.3 alone, both sides show one, each in time renewed.

A context that lives long is `refresh`ed: connections made after that show the new certificate,
those that are up stay.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from controller.config import Config
from controller.errors import ConfigError
from controller.pki.store import open_store
from controller.pki.wanted import AuthorityName


class Identity:
    """A certificate and whom it trusts, as a context that follows the files when they change.

    make: of a server, a context for what each load finds. A context forgets no authority, and one
    whose key was stolen must let nobody in once another is in its place. As a client, a role has
    to be started again for that.

    Raises ConfigError when a file is missing or does not fit.
    """

    def __init__(
        self,
        config: Config,
        context: ssl.SSLContext,
        name: str,
        own: AuthorityName,
        trusted: AuthorityName,
        make: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        store = open_store(config)
        self.context = context
        self._make = make
        self._source = config.source
        self._certificate, self._key = store.certificate(own, name), store.key(own, name)
        self._ca, self._revoked = store.ca(trusted), store.revoked(trusted)
        self._stamp = self._seen()
        self._load()

    def refresh(self) -> bool:
        """Loads again what has changed; True when something has. A torn pair is left for later."""
        stamp = self._seen()
        if stamp == self._stamp:
            return False
        try:
            self._load()
        except ConfigError:
            return False  # between the two writes, or wrong: what is loaded goes on
        self._stamp = stamp
        return True

    def _seen(self) -> tuple[int, ...]:
        return tuple(map(_stamp, (self._certificate, self._key, self._ca, self._revoked)))

    def _load(self) -> None:
        """Of two revocation lists of one authority OpenSSL goes by the younger."""
        context = self._make() if self._make else self.context
        try:
            at = self._ca
            context.load_verify_locations(at)
            if self._revoked.exists():
                at = self._revoked
                context.load_verify_locations(at)
                context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
            at = self._certificate
            context.load_cert_chain(at, self._key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{at} cannot be used: {error}",
                file=self._source,
                key="pki.folder",
                hint="pbxctl pki renew makes what is missing; keys are for pbxctl's own user",
            ) from error
        if self._make:
            self._show(context)

    def _show(self, fresh: ssl.SSLContext) -> None:
        """To connections from now on: OpenSSL takes certificates and authorities of `fresh`, and
        all else, such as whether revocations count, of the context that listens."""

        def chosen(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
            connection.context = fresh

        self.context.verify_flags = fresh.verify_flags
        self.context.sni_callback = chosen  # called also where the client names nobody


def client(
    config: Config,
    name: str,
    *,
    authority: AuthorityName = "control",
    context: ssl.SSLContext | None = None,
) -> Identity:
    """`name` as a client of servers that `authority` has signed, each by its address.

    context: of another event loop, such as gevent's.
    """
    made = context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return Identity(config, made, name, authority, authority)


def member(config: Config, name: str) -> Identity:
    """The node or edge `name` as a client of the roles' servers, each by its address."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return Identity(config, made, name, "sip", "control")


def server(config: Config, name: str, *, clients: AuthorityName) -> Identity:
    """`name` as a server for those who show a certificate of `clients`, and for nobody else."""

    def make() -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.verify_mode = ssl.CERT_REQUIRED
        made.num_tickets = 0  # a session resumed would not look at the certificate again
        return made

    return Identity(config, make(), name, "control", clients, make)


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
