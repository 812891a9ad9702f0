"""From `phones add` to a phone that can log in on every node, and how many that is in a second.

Two Asterisks that the agents, the driver, the steward and the gate keep in step, as in production,
and phones that are there already. A new phone is made through the gate; from then on a REGISTER
with its password is tried on each node every few milliseconds, until it is answered 200: that
moment counts, not what pbxctl says of itself. Then many are made at once by several clients, timed
from the first request until every node has acknowledged them all; one of the last is tried by
REGISTER too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from bench.figures import Figure, Report, percentile
from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone_fleet import PhoneFleet
from tests.lab.register import Registrar

POLL_S = 0.02
CLIENTS = 4
GIVE_UP_S = 30.0


def run(*, quick: bool = False) -> Report:
    there, singles, burst = (100, 10, 100) if quick else (1000, 100, 500)
    with Lab() as lab:
        nodes: dict[Asterisk | FreeSwitch, str] = {
            lab.asterisk("a"): "east",
            lab.asterisk("b"): "west",
        }
        with PhoneFleet(lab, nodes, lab.redis()) as fleet:
            fleet.begin()
            source = lab.address()
            provision_many(fleet, source, 100_000, there)
            ready_s = [ready_time_s(fleet, source, str(200_000 + n)) for n in range(singles)]
            rate = burst / provision_many(fleet, source, 300_000, burst)
    return Report(
        "phones",
        quick,
        f"2 Asterisk, {there} phones there; {singles} added one by one, then {burst} by "
        f"{CLIENTS} clients at once",
        (
            Figure("phone_ready_p50_s", percentile(ready_s, 0.5), "added until it can log in"),
            Figure("phone_ready_p99_s", percentile(ready_s, 0.99), "… on every node", "≤ 3"),
            Figure("phones_per_s", rate, "made and acknowledged by every node, many at once"),
        ),
    )


def ready_time_s(fleet: PhoneFleet, source: str, name: str) -> float:
    """Makes a phone; seconds from asking for it until it has logged in on every node."""
    began = time.monotonic()
    password = fleet.add(name).password
    for node in fleet.nodes.values():
        wait_login(node.sip, source, name, password, began + GIVE_UP_S)
    return time.monotonic() - began


def wait_login(sip: str, source: str, name: str, password: str, deadline_s: float) -> None:
    """Tries until the node lets the phone in. Raises TimeoutError."""
    while True:
        # Asterisk closes connections that were idle for 64 x T1, and may close the next one to get
        # their place in memory: a phone tries again, and so do we.
        with (
            contextlib.suppress(ConnectionError),
            contextlib.closing(Registrar(sip, source)) as registrar,
        ):
            challenge = registrar.register(name)
            header = registrar.authorization(name, password, challenge)
            if registrar.register(name, header).code == 200:
                return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{name} cannot log in at {sip}")
        time.sleep(POLL_S)


def provision_many(fleet: PhoneFleet, source: str, first: int, count: int) -> float:
    """Makes many phones at once; seconds until every node has acknowledged all of them."""
    passwords: dict[str, str] = {}
    lock = threading.Lock()

    def add(name: str) -> None:
        password = fleet.add(name).password
        with lock:
            passwords[name] = password

    names = [str(first + n) for n in range(count)]
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(add, names))
    while any(phone.pending for phone in fleet.phones()):
        if time.monotonic() > began + 20 * GIVE_UP_S:
            raise TimeoutError("the nodes do not acknowledge the phones")
        time.sleep(POLL_S)
    took_s = time.monotonic() - began
    for node in fleet.nodes.values():
        wait_login(node.sip, source, names[-1], passwords[names[-1]], time.monotonic() + 5)
    return took_s
