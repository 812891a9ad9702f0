"""A driver that does not read while its PBX has more to say than fits finds out what it missed.

Promise 3: after an event storm the live set of a node is exact again within 10 s.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Callable

import pytest

from tests.lab.asterisk import AMI_PORT, Asterisk
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import ESL_PORT, FreeSwitch
from tests.lab.lab import Lab
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]

EXACT_WITHIN_S = 10
#: more than FreeSWITCH's queue of 100,000 and both socket buffers hold
FREESWITCH_EVENTS = 125_000
#: more than both socket buffers of a loopback connection hold; Asterisk's own queue has no end
ASTERISK_EVENTS, ASTERISK_EVENT_BYTES = 20_000, 1000
BATCH = 500


def _flood(link: socket.socket, command: bytes, answer: bytes, count: int) -> None:
    """`count` times `command`, a batch at a time so that neither side's buffers fill."""
    for _ in range(count // BATCH):
        link.sendall(command * BATCH)
        seen, rest = 0, b""
        while seen < BATCH:
            data = link.recv(1 << 20)
            assert data, "the PBX closed the link of the storm"
            rest += data
            seen += rest.count(answer)
            rest = rest[-(len(answer) - 1) :]


def storm_freeswitch(node: FreeSwitch) -> None:
    """Events of a kind that the driver subscribes to, and that mean nothing to it."""
    with socket.create_connection((node.address, ESL_PORT), timeout=20) as link:
        link.sendall(f"auth {node.secret}\n\n".encode())
        until(lambda: b"+OK accepted" in link.recv(4096), 2, "logged in")
        _flood(link, b"sendevent BACKGROUND_JOB\nstorm: 1\n\n", b"Reply-Text", FREESWITCH_EVENTS)


def storm_asterisk(node: Asterisk) -> None:
    with socket.create_connection((node.address, AMI_PORT), timeout=20) as link:
        login = f"Action: Login\r\nUsername: {node.user}\r\nSecret: {node.secret}\r\nEvents: off"
        link.sendall(f"{login}\r\n\r\n".encode())
        until(lambda: b"Authentication accepted" in link.recv(4096), 2, "logged in")
        event = b"Action: UserEvent\r\nUserEvent: Storm\r\nX: %s\r\n\r\n"
        _flood(link, event % (b"x" * ASTERISK_EVENT_BYTES), b"Event Sent", ASTERISK_EVENTS)


def live_on_freeswitch(node: FreeSwitch) -> set[str]:
    told = json.loads(node.esl("api show channels as json"))
    return {row["uuid"] for row in told.get("rows", [])}


def live_on_asterisk(node: Asterisk) -> set[str]:
    channels = node.cli("core show channels concise")
    return set(re.findall(r"!(\d+\.\d+)$", channels, re.M))


def _through_a_storm(
    lab: Lab, fleet: LabFleet, storm: Callable[[], None], live: Callable[[], set[str]]
) -> None:
    """Calls that stay, calls that end unseen, calls that begin unseen."""
    node = fleet.nodes["n"]
    driver = fleet.roles["driver"]
    stay = lab.calls(node.sip, count=4, hold_s=60)
    stay.wait_answered(4)
    end = lab.calls(node.sip, count=40, rate_per_s=40, hold_s=3, audio=False)
    end.wait_answered(40)
    until(lambda: fleet.view("n").calls == 44, 3, "44 calls seen")
    driver.send_signal(signal.SIGSTOP)
    try:
        storm()
        begin = lab.calls(node.sip, count=5, hold_s=60)
        begin.wait_answered(5)
        assert end.result().completed == 40
    finally:
        driver.send_signal(signal.SIGCONT)
    thawed_s = time.monotonic()
    # FreeSWITCH's list is late by what its own database still has to read.
    expected = until(lambda: found if len(found := live()) == 9 else None, 5, "9 calls listed")

    def exact() -> bool:
        known = {r.pbx_id for r in fleet.ask(lambda door: door.calls("n")) if r.state == "live"}
        return known == expected and fleet.view("n").calls == 9

    until(exact, EXACT_WITHIN_S, "the live set is exact")
    until(lambda: fleet.view("n").state == "active", EXACT_WITHIN_S, "the node takes calls again")
    assert time.monotonic() - thawed_s < EXACT_WITHIN_S
    assert live() == expected, "no call was touched"


@pytest.mark.freeswitch
def test_a_full_event_queue_of_freeswitch_leaves_no_drift(lab: Lab) -> None:
    node = lab.freeswitch("n")
    with LabFleet(lab, {node: "east"}, lab.redis()) as fleet:
        fleet.start("driver")
        fleet.start("steward")
        fleet.until_active()
        _through_a_storm(
            lab, fleet, lambda: storm_freeswitch(node), lambda: live_on_freeswitch(node)
        )
        assert "Lost [" in node.messages.read_text(), "the queue was never full"


def test_a_reader_that_asterisk_gives_up_leaves_no_drift(lab: Lab) -> None:
    node = lab.asterisk("n")
    with LabFleet(lab, {node: "east"}, lab.redis()) as fleet:
        fleet.start("driver")
        fleet.start("steward")
        fleet.until_active()
        _through_a_storm(lab, fleet, lambda: storm_asterisk(node), lambda: live_on_asterisk(node))
        assert "closed the link" in fleet.log("driver"), "Asterisk never gave the driver up"
