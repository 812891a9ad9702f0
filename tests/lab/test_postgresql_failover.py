"""The records' PostgreSQL dies, and freezes, under load; a standby takes over.

Measured for docs/performance.md: calls refused (0) and dropped (0), how long the gate takes to say
that phones cannot be looked up, and to look them up again.
"""

from __future__ import annotations

import time

import pytest

from controller.api.shapes import Phones
from controller.errors import PbxctlError
from controller.model import Placed
from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone_fleet import PhoneFleet
from tests.lab.rendered import start_kamailio
from tests.lab.until import until
from tests.postgresql_server import PostgresqlServer, is_installed

pytestmark = [
    pytest.mark.lab,
    pytest.mark.alone,
    pytest.mark.skipif(not is_installed(), reason="no PostgreSQL server (Debian: postgresql)"),
]

PORT = 5432
RATE_PER_S, HOLD_S, LOAD_S = 5, 2.0, 13
ANSWER_MAX_S = 6.0


def asked(fleet: PhoneFleet) -> tuple[str, float]:
    """What the gate says of its phones ("" for a list of them), and after how many seconds."""
    began_s = time.monotonic()
    try:
        fleet.gate.get(Phones, "phones")
        said = ""
    except PbxctlError as error:
        said = error.message
    return said, time.monotonic() - began_s


def settings(lab: Lab, *servers: PostgresqlServer) -> dict[str, object]:
    hosts, ports = (",".join(str(getattr(s, of)) for s in servers) for of in ("address", "port"))
    where = f"host={hosts}&port={ports}&target_session_attrs=read-write"
    return {
        "records": {"url": f"postgresql://postgres@/postgres?{where}"},
        "edges": {"k": {"region": "east", "sip": f"{lab.address()}:5060"}},
    }


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_calls_go_on_without_records(lab: Lab, how: str) -> None:
    node: dict[Asterisk | FreeSwitch, str] = {lab.asterisk("a"): "east"}
    with (
        PostgresqlServer(lab.address(), PORT) as server,
        PhoneFleet(lab, node, lab.redis(), settings=settings(lab, server)) as fleet,
    ):
        fleet.begin()
        start_kamailio(lab, fleet.config, "k")
        fleet.phone("1001")
        edge = fleet.config.edges["k"].sip
        until(lambda: lab.call(edge, "9500", audio=False).answered, 10, "placed")
        up = lab.calls(edge, "9500", count=2, hold_s=LOAD_S + 3)
        up.wait_answered(2)
        load = lab.calls(
            edge, "9500", count=RATE_PER_S * LOAD_S, rate_per_s=RATE_PER_S, hold_s=HOLD_S,
            audio=False,
        )  # fmt: skip
        getattr(server, how)()
        answers = [asked(fleet) for _ in range(2)]
        found = fleet.route("to a phone", callee="1001")
        assert isinstance(found, Placed) and "registered on a" in found.reason
        (server.start if how == "kill" else server.thaw)()
        began_s = time.monotonic()
        until(lambda: not asked(fleet)[0], 10, "phones are listed again")
        again_s = time.monotonic() - began_s
        fleet.phone("1002")  # made, published, loaded by the node and registered
        result, stayed = load.result(60), up.result(60)
        print(
            f"\n{how}: the gate says so after {max(s for _, s in answers):.1f} s at most, lists "
            f"phones {again_s:.1f} s after it is back; of {result.attempted} calls refused "
            f"{result.failed}, dropped {result.answered - result.completed} and "
            f"{2 - stayed.completed} of 2"
        )
        assert all("cannot be used" in said for said, _ in answers), answers
        assert max(s for _, s in answers) < ANSWER_MAX_S
        assert result.codes == {200: result.attempted}
        assert result.completed == result.attempted
        assert stayed.completed == 2


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_promoted_standby_is_used(lab: Lab, how: str) -> None:
    node: dict[Asterisk | FreeSwitch, str] = {lab.asterisk("a"): "east"}
    with (
        PostgresqlServer(lab.address(), PORT) as primary,
        PostgresqlServer(lab.address(), PORT, follows=primary) as standby,
        PhoneFleet(lab, node, lab.redis(), settings=settings(lab, primary, standby)) as fleet,
    ):
        fleet.begin()
        fleet.phone("1001")
        getattr(primary, how)()
        standby.promote()
        began_s = time.monotonic()
        until(lambda: not asked(fleet)[0], 20, "phones are listed again")
        print(f"\n{how}: phones are listed {time.monotonic() - began_s:.1f} s after the promotion")
        fleet.phone("1002")
