"""The leading steward's part in certificates: renews what is due, tells how long the rest lasts.

Where pki.folder is not on its machine it does nothing: then `pbxctl pki renew` is for whoever has
the authorities' keys.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time

from prometheus_client import Gauge

from controller.config import Config
from controller.errors import PbxctlError
from controller.pki.store import open_store, renew_due
from controller.pki.wanted import AUTHORITIES

EVERY_S = 600.0

_log = logging.getLogger(__name__)


class Renewal:
    """expires: a gauge by authority and name."""

    def __init__(self, config: Config, expires: Gauge) -> None:
        self._config = config
        self._expires = expires
        self._next_s = 0.0
        self._problem = ""

    async def step(self) -> None:
        """Looks at everything every ten minutes; never raises, trouble is logged once."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + EVERY_S
        problem = ""
        try:
            await asyncio.to_thread(self._look)
        except PbxctlError as error:
            problem = error.message
        except OSError as error:  # as of a full disk
            problem = f"{error.strerror}: {error.filename or self._config.pki.folder}"
        if problem and problem != self._problem:
            _log.warning("certificates are not renewed: %s", problem)
        self._problem = problem

    def _look(self) -> None:
        store = open_store(self._config)
        # Never a new authority from here: a steward elsewhere has none, and must not make one.
        if not all(store.ca(name).exists() for name in AUTHORITIES):
            return
        now = dt.datetime.now(dt.UTC)
        try:
            for want in renew_due(self._config, now):
                _log.info("certificate %s/%s is renewed", want.authority, want.name)
        finally:
            self._expires.clear()
            for kept in store.kept():
                self._expires.labels(kept.authority, kept.name).set(round(kept.expires_s(now)))
