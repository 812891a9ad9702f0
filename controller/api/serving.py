"""What servers on TCP have in common: listening, and showing certificates that are renewed."""

from __future__ import annotations

import asyncio
import logging
import ssl

from aiohttp import web

from controller.config import split_address
from controller.errors import PbxctlError
from controller.pki.contexts import Identity

log = logging.getLogger(__name__)
#: how soon a renewed certificate is shown to new connections
REFRESH_S = 5.0


async def listen_tls(runner: web.AppRunner, address: str, tls: ssl.SSLContext, key: str) -> None:
    """Serves on host:port. key: of the config, for the message when that cannot be."""
    host, port = split_address(address)
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError as error:
        raise PbxctlError(
            f"cannot listen on {address}: {error.strerror}",
            hint=f"{key} must be an address of this machine and a free port",
        ) from error
    log.info("%s on https://%s", key.partition(".")[0], address)


async def follow(identity: Identity) -> None:
    """Has new connections see a renewed certificate, and revocations, until cancelled."""
    while True:
        await asyncio.sleep(REFRESH_S)
        if await asyncio.to_thread(identity.refresh):
            log.info("certificates or revocations have changed and count from now on")
