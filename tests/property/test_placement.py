"""The eight placement promises of docs/architecture.md, against a real redis-server.

A machine plays phones, edges, nodes and drivers in any order, with lost replies, repeated and
stale words, FLUSHALL and restarts; a plain model of the nodes, which Redis never sees, says
what is true. Time is real, so the policy's times are short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import redis.asyncio as redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from controller.errors import StaleEpoch
from controller.fleet.functions import Fleet
from controller.fleet.library import library
from controller.fleet.phones import FleetPhones
from controller.fleet.state import Beat, Lease
from controller.model import (
    CallEnded,
    CallStarted,
    CallTruth,
    NodeEvent,
    PhoneGone,
    PhoneRegistered,
    Placed,
    Rejected,
    Verdict,
)
from tests.redis_server import RedisServer

T = TypeVar("T")
RESERVATION_S = 0.08
SLOT_S = 0.1  # as lua/redis/13_reserved.lua has it
SILENT_S = 0.5
POLICY = {
    "spill_above": 0.85,
    "reservation_ms": round(RESERVATION_S * 1000),
    "silent_ms": round(SILENT_S * 1000),
    "ramp_ms": 0,
    "admit": {"low": 0.5, "normal": 1, "high": 1},
    "reject_cause": 503,
    "retry_after_s": 4,
    "regions": {"east": ["west"], "west": ["east"]},
    "numbers": {"400": {"service": "queue", "regions": ["west"], "priority": "high"}},
}
LIMITS = {"e1": 3, "e2": 2, "w1": 3}
PHONE = "1001"
REGION = {"e": "east", "w": "west"}


@dataclass
class Pbx:
    """What is true of one node: its calls, and the INVITEs under way to it until a deadline."""

    limit: int
    calls: dict[str, str] = field(default_factory=dict)
    coming: dict[str, float] = field(default_factory=dict)
    #: until when Redis may count them as reserved, which is up to a slot longer
    held: dict[str, float] = field(default_factory=dict)
    heard: float = 0.0
    drained: bool = False
    up: bool = True
    #: calls that ended without Redis hearing of it, until the next comparison
    lost: int = 0

    def burden(self) -> int:
        now = time.monotonic()
        self.coming = {p: end for p, end in self.coming.items() if end > now}
        return len(self.calls) + len(self.coming)

    def counted(self) -> int:
        """The most that Redis may count."""
        now = time.monotonic()
        self.held = {p: end for p, end in self.held.items() if end > now}
        return len(self.calls) + self.lost + len(self.held)


class Placement(RuleBasedStateMachine):
    server: RedisServer
    loop: asyncio.AbstractEventLoop
    calls = Bundle("calls")

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(asyncio.ensure_future(work, loop=self.loop))

    @initialize()
    def begin(self) -> None:
        self.fleet = Fleet(redis.Redis.from_url(self.server.url), "test")
        self.run(self.fleet.client.flushall())
        self.pbx = {name: Pbx(limit) for name, limit in LIMITS.items()}
        self.placed: dict[str, Placed] = {}
        self.at: set[str] = set()  # nodes where PHONE is registered
        #: placements that Redis's data has, and those of them whose calls are over
        self.known: set[str] = set()
        self.over: set[str] = set()
        self.serial = 0
        self.driver = 0
        self.take_over()

    def teardown(self) -> None:
        if hasattr(self, "fleet"):
            self.run(self.fleet.close())

    def take_over(self) -> None:
        """A new driver claims every node and compares it, as a worker does."""
        self.run(self.fleet.set_policy(POLICY))
        self.run(self.fleet.release(f"d{self.driver}", LIMITS))
        self.driver += 1
        leases = self.run(self.fleet.claim(f"d{self.driver}", 60_000, LIMITS))
        self.leases = {lease.node: lease for lease in leases}
        assert set(self.leases) == set(LIMITS)
        for name in LIMITS:
            self.register(name)

    def register(self, name: str) -> None:
        facts = {
            "region": REGION[name[0]], "address": f"{name}:5060", "kind": "asterisk",
            "weight": 1, "calls_max": LIMITS[name], "owner": f"d{self.driver}",
            "want": "draining" if self.pbx[name].drained else "active",
        }  # fmt: skip
        self.run(self.fleet.register(self.leases[name], facts))
        self.tell(name)
        self.run(self.fleet.reconcile(self.leases[name], self.truth(name)))
        self.pbx[name].lost = 0

    def truth(self, name: str) -> list[CallTruth]:
        return [CallTruth(i, p) for i, p in self.pbx[name].calls.items()]

    def tell(self, name: str) -> None:
        self.run(self.fleet.beat(self.leases[name], Beat(self.pbx[name].up)))
        self.pbx[name].heard = time.monotonic()

    def ask(self, call_id: str, region: str, failed: str = "", callee: str = "95\0") -> Verdict:
        verdict = self.run(self.fleet.route(call_id, region, "\r\n100", callee, "", failed))
        if isinstance(verdict, Placed):
            # 1: it holds nothing any more, so an INVITE that it sends there counts nowhere.
            assert verdict.placement not in self.over
            self.known.add(verdict.placement)
            before = self.placed.get(call_id)
            if before is None or before.placement != verdict.placement:
                self.check_new(verdict)
            self.placed[call_id] = verdict
        return verdict

    def check_new(self, verdict: Placed) -> None:
        pbx = self.pbx[verdict.node]
        pbx.coming[verdict.placement] = time.monotonic() + RESERVATION_S - 0.02
        pbx.held[verdict.placement] = time.monotonic() + RESERVATION_S + SLOT_S + 0.02
        # 1: never one more than the limit. Counted on the model, not on what Redis believes.
        assert pbx.burden() <= pbx.limit, "over-allocated"
        # 5 and the operator's word: no new call for a node out of service.
        assert pbx.up
        assert not pbx.drained
        assert time.monotonic() - pbx.heard <= SILENT_S + 0.1

    @rule(target=calls, region=st.sampled_from(["east", "west"]))
    def call_comes_in(self, region: str) -> str:
        self.serial += 1
        call_id = f"call {self.serial};tag=first"
        self.ask(call_id, region)
        return call_id

    @rule(target=calls, region=st.sampled_from(["east", "west"]))
    def two_come_in_with_one_call_id(self, region: str) -> str:
        """As callers may do: so each needs a place of its own."""
        self.serial += 1
        self.ask(f"call {self.serial};tag=first", region)
        before, another = set(self.known), f"call {self.serial};tag=second"
        verdict = self.ask(another, region)
        assert not isinstance(verdict, Placed) or verdict.placement not in before
        return another

    @rule(name=st.sampled_from(sorted(LIMITS)), gone=st.booleans())
    def phone_registers(self, name: str, gone: bool) -> None:
        if not self.pbx[name].up:
            return
        event = PhoneGone(PHONE, "sip:x") if gone else PhoneRegistered(PHONE, "sip:x", 60.0)
        self.run(FleetPhones(self.fleet).told(self.leases[name], [event]))
        self.at.discard(name)
        if not gone:
            self.at.add(name)

    @rule(target=calls, region=st.sampled_from(["east", "west"]))
    def phone_is_called(self, region: str) -> str:
        """A phone is called where it is registered, under the same promises, or not at all."""
        self.serial += 1
        verdict = self.ask(f"call {self.serial}", region, callee=PHONE)
        if isinstance(verdict, Placed) and self.at:
            assert verdict.node in self.at
        elif self.at:
            assert isinstance(verdict, Rejected)
            assert verdict.cause == 480 or verdict.blind
        return f"call {self.serial}"

    @rule(call_id=calls, region=st.sampled_from(["east", "west"]))
    def retransmission(self, call_id: str, region: str) -> None:
        first = self.ask(call_id, region)
        started = time.monotonic()
        second = self.ask(call_id, region)
        if isinstance(first, Placed) and time.monotonic() - started < RESERVATION_S / 2:
            on_node = first.placement in self.pbx[first.node].calls.values()
            fresh = first.placement in self.pbx[first.node].coming
            if on_node or fresh:
                assert second == first or not fresh  # 2: the same answer

    @rule(call_id=calls)
    def node_refuses(self, call_id: str) -> None:
        before = self.placed.get(call_id)
        if before is None or before.placement in self.pbx[before.node].calls.values():
            return
        self.pbx[before.node].coming.pop(before.placement, None)
        verdict = self.ask(call_id, "east", before.placement)
        if isinstance(verdict, Placed) and verdict.placement != before.placement:
            assert self.ask(call_id, "east", before.placement).__class__ in (Placed, type(verdict))

    @rule(call_id=calls, repeat=st.booleans())
    def invite_arrives(self, call_id: str, repeat: bool) -> None:
        placed = self.placed.get(call_id)
        if placed is None:
            return
        pbx = self.pbx[placed.node]
        pbx.burden()
        if not pbx.up or placed.placement not in pbx.coming:
            return
        del pbx.coming[placed.placement]
        pbx.held.pop(placed.placement, None)
        self.serial += 1
        pbx_id = f"pbx{self.serial}"
        pbx.calls[pbx_id] = placed.placement
        event = CallStarted(pbx_id, placed.placement, "100", "95")
        for _ in range(1 + repeat):
            self.run(self.fleet.events(self.leases[placed.node], [event]))

    @rule(name=st.sampled_from(sorted(LIMITS)))
    def phone_dials_out(self, name: str) -> None:
        """8: a call that the fleet did not place counts all the same."""
        pbx = self.pbx[name]
        if not pbx.up or pbx.counted() >= pbx.limit:
            return
        self.serial += 1
        pbx.calls[f"own{self.serial}"] = ""
        self.run(self.fleet.events(self.leases[name], [CallStarted(f"own{self.serial}")]))

    @rule(name=st.sampled_from(sorted(LIMITS)), repeat=st.booleans(), lost=st.booleans())
    def call_ends(self, name: str, repeat: bool, lost: bool) -> None:
        pbx = self.pbx[name]
        if not pbx.up or not pbx.calls:
            return
        pbx_id = next(iter(pbx.calls))
        placement = pbx.calls.pop(pbx_id)
        if placement in self.known and not lost:
            self.over.add(placement)
        for _ in range(0 if lost else 1 + repeat):
            self.run(self.fleet.events(self.leases[name], [CallEnded(pbx_id, 16)]))
        if lost:
            pbx.lost += 1
            self.run(self.fleet.beat(self.leases[name], Beat(True, in_step=False)))

    @rule(region=st.sampled_from(["east", "west"]))
    def call_that_is_over_comes_again(self, region: str) -> None:
        """At once, while others hold that were placed in the same moment."""
        self.serial += 1
        call_id, pbx_id = f"call {self.serial}", f"short {self.serial}"
        first = self.ask(call_id, region)
        self.burst()
        if isinstance(first, Placed):
            self.pbx[first.node].coming.pop(first.placement, None)
            self.pbx[first.node].held.pop(first.placement, None)
            told: list[NodeEvent] = [CallStarted(pbx_id, first.placement), CallEnded(pbx_id, 16)]
            self.run(self.fleet.events(self.leases[first.node], told))
            self.over.add(first.placement)
        self.ask(call_id, region)

    @rule(name=st.sampled_from(sorted(LIMITS)))
    def compare(self, name: str) -> None:
        if self.pbx[name].up:
            self.tell(name)
            self.run(self.fleet.reconcile(self.leases[name], self.truth(name)))
            self.pbx[name].lost = 0
            view = self.view(name)
            assert view.calls == len(self.pbx[name].calls)  # 3: exact again

    @rule(name=st.sampled_from(sorted(LIMITS)))
    def link_closes(self, name: str) -> None:
        self.pbx[name].up = False
        self.tell(name)

    @rule(name=st.sampled_from(sorted(LIMITS)))
    def link_is_back(self, name: str) -> None:
        if not self.pbx[name].up:
            self.pbx[name].up = True
            self.register(name)

    @rule(name=st.sampled_from(sorted(LIMITS)))
    def beats(self, name: str) -> None:
        self.tell(name)

    @rule(name=st.sampled_from(sorted(LIMITS)), drain=st.booleans())
    def operator(self, name: str, drain: bool) -> None:
        self.run(self.fleet.want(name, "draining" if drain else "active"))
        self.pbx[name].drained = drain

    @rule(seconds=st.sampled_from([RESERVATION_S + 0.01, SILENT_S + 0.05]))
    def time_passes(self, seconds: float) -> None:
        time.sleep(seconds)

    @rule(name=st.sampled_from(sorted(LIMITS)))
    def old_driver_speaks(self, name: str) -> None:
        """4: a writer with an old epoch changes nothing."""
        old = self.leases[name]
        self.take_over()
        before = self.view(name)
        for word in (
            self.fleet.events(old, [CallStarted("ghost")]),
            self.fleet.reconcile(old, []),
            self.fleet.beat(old, Beat(False)),
            self.fleet.register(old, {}),
            self.fleet.take(Lease(old.node, "1")),
        ):
            with pytest.raises(StaleEpoch):
                self.run(word)
        after = self.view(name)
        assert (after.calls, after.want) == (before.calls, before.want)
        assert (after.state == "down") == (before.state == "down")

    def burst(self) -> None:
        for _ in range(sum(LIMITS.values())):
            self.serial += 1
            self.ask(f"burst {self.serial}", "east")

    @rule(target=calls, restart=st.booleans())
    def data_is_lost(self, restart: bool) -> Any:
        """The drivers notice and start over; the calls that are up are in the picture again."""
        old = self.leases
        self.burst()
        if restart:
            self.server.restart()
            self.run(self.fleet.client.connection_pool.disconnect())
        else:
            self.run(self.fleet.client.flushall())
        self.at.clear()
        self.known.clear()
        self.over.clear()
        self.take_over()
        for name, lease in old.items():
            assert int(self.leases[name].epoch) > int(lease.epoch)
            with pytest.raises(StaleEpoch):
                self.run(self.fleet.reconcile(lease, []))
        self.burst()
        return multiple()

    @rule(handed_over=st.booleans())
    def library_is_replaced(self, handed_over: bool) -> None:
        """By the steward, or by hand after a FUNCTION FLUSH: reservations stood in its memory."""
        self.burst()
        if handed_over:
            self.run(self.fleet.load())
        else:
            self.run(self.fleet.client.function_flush("SYNC"))
            self.run(self.fleet.client.function_load(library().decode()))
        self.burst()

    def view(self, name: str) -> Any:
        return next(n for n in self.run(self.fleet.nodes()) if n.name == name)

    @invariant()
    def picture_is_within_limits(self) -> None:
        if not hasattr(self, "pbx"):
            return
        for node in self.run(self.fleet.nodes()):
            pbx = self.pbx[node.name]
            pbx.burden()
            assert node.calls + node.reserved <= node.calls_max
            if node.state in ("active", "joining"):
                assert node.calls >= len(pbx.calls)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.mark.timeout(600)
def test_promises_hold_whatever_happens(server: RedisServer) -> None:
    loop = asyncio.new_event_loop()

    class Machine(Placement):
        pass

    Machine.server, Machine.loop = server, loop
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    loop.close()
