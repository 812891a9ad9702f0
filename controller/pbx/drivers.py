"""Which driver drives a node: from its config and secret to a fresh, unconnected Driver."""

from __future__ import annotations

import ssl

import gevent.ssl

from controller.config import Config, NodeConfig, split_address
from controller.model import Kind
from controller.pbx.asterisk import AsteriskDriver
from controller.pbx.base import Driver
from controller.pbx.freeswitch import FreeSwitchDriver
from controller.pbx.hub import GreenHub
from controller.pki import contexts


class Drivers:
    """Makes drivers that all show the driver's certificate, where the config wants TLS.

    hub: must run for FreeSWITCH nodes. Raises ConfigError when a certificate is missing.
    """

    def __init__(self, config: Config, hub: GreenHub) -> None:
        self.hub = hub
        self._tls: contexts.Identity | None = None
        self._green_tls: contexts.Identity | None = None
        if config.security.control == "tls":
            self._tls = contexts.client(config, "driver")
            green = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._green_tls = contexts.client(config, "driver", context=green)

    def tls(self) -> ssl.SSLContext | None:
        """For an AMI link of one's own; with the certificate as it is now."""
        return _now(self._tls)

    def green_tls(self) -> ssl.SSLContext | None:
        """For an event socket link of one's own."""
        return _now(self._green_tls)

    def new(self, node: NodeConfig, secret: str) -> Driver:
        """A driver for one connection."""
        host, port = split_address(node.control)
        if node.kind is Kind.ASTERISK:
            return AsteriskDriver(host, port, node.user, secret, tls=self.tls(), cpus=node.cpus)
        return FreeSwitchDriver(self.hub, host, port, secret, tls=self.green_tls())


def _now(identity: contexts.Identity | None) -> ssl.SSLContext | None:
    if identity is None:
        return None
    identity.refresh()
    return identity.context
