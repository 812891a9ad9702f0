"""Loss and jitter of a node, from its ended legs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.pbx.quality import TAU_S, Quality, parse_rtpaudioqos

REAL = (
    "ssrc=267315146;themssrc=3390111744;lp=6;rxjitter=0.004000;rxcount=294;txjitter=0.011625;"
    "txcount=301;rlp=0;rtt=0.000000;rxmes=0.000000;txmes=88.087887"
)


def test_what_asterisk_says_of_a_leg() -> None:
    assert parse_rtpaudioqos(REAL) == (294, 6, 4)


@given(st.text())
def test_any_other_text_is_nothing_or_numbers(text: str) -> None:
    for said in (text, f"lp={text};rxcount=5", f"lp=1;rxcount=2;rxjitter={text}"):
        parsed = parse_rtpaudioqos(said)
        assert parsed is None or all(n is None or n >= 0 for n in parsed)


def test_nothing_is_said_before_a_second_of_audio() -> None:
    quality = Quality()
    assert quality.loss(1) is None
    quality.leg_ended(30, 0, 1.0, 1)
    assert quality.loss(1) is None
    assert quality.jitter_ms(1) is None


def test_legs_count_by_their_packets_and_the_recent_ones_most() -> None:
    quality = Quality()
    quality.leg_ended(900, 100, 10.0, 1)
    assert quality.loss(1) == pytest.approx(0.1)
    assert quality.jitter_ms(1) == pytest.approx(10)
    quality.leg_ended(1000, 0, None, 1 + 3 * TAU_S)
    loss = quality.loss(1 + 3 * TAU_S)
    assert loss is not None
    assert loss < 0.01
    assert quality.loss(1 + 20 * TAU_S) is None


@pytest.mark.parametrize("received", [-1, 1e12, float("nan"), float("inf")])
def test_impossible_counts_are_no_counts(received: float) -> None:
    quality = Quality()
    quality.leg_ended(100, 0, 1.0, 1)
    quality.leg_ended(received, 0, 1.0, 1)
    assert quality.loss(1) == 0
