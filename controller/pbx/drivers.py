"""Which driver drives a node: from its config and secret to a fresh, unconnected Driver."""

from __future__ import annotations

from controller.config import NodeConfig, split_address
from controller.model import Kind
from controller.pbx.asterisk import AsteriskDriver
from controller.pbx.base import Driver
from controller.pbx.freeswitch import FreeSwitchDriver
from controller.pbx.hub import GreenHub


def new_driver(node: NodeConfig, secret: str, hub: GreenHub) -> Driver:
    """A driver for one connection; `hub` must run for FreeSWITCH nodes."""
    host, port = split_address(node.control)
    if node.kind is Kind.ASTERISK:
        return AsteriskDriver(host, port, node.user, secret, cpus=node.cpus)
    return FreeSwitchDriver(hub, host, port, secret)
