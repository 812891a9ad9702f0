"""Drivers come and go in order, and no node is without calls for a moment because of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from controller.fleet.functions import Fleet, connect
from controller.model import NodeState, Rejected
from tests.lab.asterisk import Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch, freeswitch_binary
from tests.lab.lab import Lab
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]

LOOK_S = 0.01


@dataclass
class Watch:
    """What was seen: rejections of a call of either region, moments at which a node was out."""

    looks: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    out: Counter[str] = field(default_factory=Counter)


@contextmanager
def watched(fleet: LabFleet) -> Iterator[Watch]:
    seen, stop = Watch(), threading.Event()

    async def look() -> None:
        door = Fleet(connect(fleet.config, "gate"), fleet.config.fleet)
        try:
            while not stop.is_set():
                for region in ("east", "west"):
                    verdict = await door.route("c", region, "100", "9196", dry=True)
                    if isinstance(verdict, Rejected):
                        seen.rejects[verdict.reason] += 1
                for node in await door.nodes():
                    if node.state is not NodeState.ACTIVE:
                        seen.out[f"{node.name} {node.state} {node.reason}"] += 1
                seen.looks += 1
                await asyncio.sleep(LOOK_S)
        finally:
            await door.close()

    thread = threading.Thread(target=lambda: asyncio.run(look()))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_drivers_that_come_and_go_in_order_leave_no_node_without_calls(lab: Lab) -> None:
    nodes: dict[Asterisk | FreeSwitch, str] = {
        lab.asterisk("e1"): "east",
        lab.freeswitch("w1") if freeswitch_binary() else lab.asterisk("w1"): "west",
    }
    with LabFleet(lab, nodes, lab.redis()) as fleet:
        fleet.start("steward")
        fleet.start("driver", "one")
        fleet.until_active()
        up = lab.calls(fleet.nodes["e1"], count=3, hold_s=25, audio=False)
        up.wait_answered(3)
        until(lambda: fleet.view("e1").calls == 3, 5, "counted")
        with watched(fleet) as seen:
            fleet.start("driver", "two")  # takes one of the two nodes
            until(lambda: len({v.driver for v in fleet.views().values()}) == 2, 10, "shared")
            assert fleet.view("e1").calls == 3
            began_s = time.monotonic()
            assert fleet.stop("one") == 0  # its node goes to the other
            stopped_s = time.monotonic() - began_s
            until(lambda: len({v.driver for v in fleet.views().values()}) == 1, 5, "all with one")
            fleet.start("driver", "three")
            until(lambda: len({v.driver for v in fleet.views().values()}) == 2, 10, "shared")
            assert fleet.stop("two") == 0
            until(lambda: len({v.driver for v in fleet.views().values()}) == 1, 5, "all with one")
            assert fleet.view("e1").calls == 3
        print(f"\n{seen}; stopped after {stopped_s:.2f} s")
        assert seen.looks > 100
        assert not seen.rejects
        assert not seen.out
        assert stopped_s < 3
        assert up.result(40).completed == 3
        until(lambda: fleet.view("e1").calls == 0, 5, "exact")
        # With nobody to take the nodes there is nothing to wait for.
        began_s = time.monotonic()
        assert fleet.stop("three") == 0
        assert time.monotonic() - began_s < 1.5
