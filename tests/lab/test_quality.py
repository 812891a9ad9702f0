"""What a node is told to hear well or badly: loss and the experience score, of real PBXs."""

from __future__ import annotations

import pytest

from controller.model import NodeState
from tests.lab.fleet import LabFleet
from tests.lab.lab import Lab
from tests.lab.until import until

pytestmark = pytest.mark.lab

#: over the 5 s after which Asterisk makes its first RTCP report, and with it a score
HOLD_S = 7.0


@pytest.mark.parametrize(
    "kind", ["asterisk", pytest.param("freeswitch", marks=pytest.mark.freeswitch)]
)
def test_lost_packets_show_in_loss_and_score(kind: str) -> None:
    with Lab() as lab:
        node = lab.asterisk("a") if kind == "asterisk" else lab.freeswitch("a")
        with LabFleet(lab, {node: "east"}, lab.redis()) as fleet:
            fleet.start("driver")
            fleet.start("steward")
            fleet.until_state("a", NodeState.ACTIVE)
            told = fleet.view("a")
            assert (told.loss, told.jitter_ms, told.mes) == (-1, -1, -1)

            lab.calls(node, count=3, hold_s=HOLD_S).result(30)
            until(lambda: fleet.view("a").mes >= 0, 5, "told of the clean calls")
            clean = fleet.view("a")
            assert clean.loss < 0.01
            assert 80 <= clean.mes <= 90
            # FreeSWITCH tells no mean jitter.
            assert (clean.jitter_ms >= 0) == (kind == "asterisk")

            lab.run.thin_out(node.address)
            lab.calls(node, count=3, hold_s=HOLD_S).result(30)
            until(lambda: fleet.view("a").mes < clean.mes - 10, 5, "told of the bad calls")
            bad = fleet.view("a")
            print(
                f"\n{kind}: clean {clean.loss:.3f} {clean.mes:.1f}, {clean.jitter_ms:.1f} ms; ",
                end="",
            )
            print(f"a fifth lost in half of the legs: {bad.loss:.3f} {bad.mes:.1f}")
            # A fifth of half the packets, the later half weighing a little more.
            assert 0.05 < bad.loss < 0.16
            assert 20 <= bad.mes < 80
