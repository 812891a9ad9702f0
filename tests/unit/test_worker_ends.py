"""A worker's tasks end when they are cancelled, whatever else happens in that moment."""

from __future__ import annotations

import asyncio
from typing import cast

from controller.fleet.functions import Fleet
from controller.model import PhoneGone
from controller.pbx.base import Driver
from controller.pbx.worker_phones import Registrations


async def test_a_phone_that_goes_with_the_link_does_not_hold_the_worker() -> None:
    """The PBX tells that a phone is gone and closes: event and cancellation meet."""
    for _ in range(50):
        phones = Registrations(cast(Fleet, None), "n")
        task = asyncio.create_task(phones.watch(cast(Driver, None)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        phones.take([PhoneGone("1001", "sip:1001@192.0.2.1")])
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=1)
        assert done, "the cancellation was lost"
