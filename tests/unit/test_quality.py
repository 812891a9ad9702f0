"""Loss, jitter and experience score of a node, from its ended legs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.pbx.quality import TAU_S, LegQuality, Quality, parse_rtpaudioqos

REAL = (
    "ssrc=267315146;themssrc=3390111744;lp=6;rxjitter=0.004000;rxcount=294;txjitter=0.011625;"
    "txcount=301;rlp=0;rtt=0.000000;rxmes=0.000000;txmes=88.087887"
)


def test_what_asterisk_says_of_a_leg() -> None:
    """Its own measures: what the far end reports has the names that one expects."""
    assert parse_rtpaudioqos(REAL) == (294, 6, 11.625, 88.087887)


def test_a_leg_too_short_for_a_score_has_none() -> None:
    told = parse_rtpaudioqos(REAL.replace("txmes=88.087887", "txmes=0.000000"))
    assert told is not None
    assert told.mes is None


@given(st.text())
def test_any_other_text_is_nothing_or_numbers(text: str) -> None:
    for said in (
        text,
        f"lp={text};rxcount=5",
        f"lp=1;rxcount=2;txjitter={text}",
        f"lp=1;rxcount=2;txmes={text}",
    ):
        parsed = parse_rtpaudioqos(said)
        assert parsed is None or all(n is None or n >= 0 for n in parsed)


def test_nothing_is_said_before_a_second_of_audio() -> None:
    quality = Quality()
    assert quality.loss(1) is None
    quality.leg_ended(LegQuality(30, 0, 1.0, 88.0), 1)
    assert quality.loss(1) is None
    assert quality.jitter_ms(1) is None
    assert quality.mes(1) is None


def test_legs_count_by_their_packets_and_the_recent_ones_most() -> None:
    quality = Quality()
    quality.leg_ended(LegQuality(900, 100, 10.0, 40.0), 1)
    assert quality.loss(1) == pytest.approx(0.1)
    assert quality.jitter_ms(1) == pytest.approx(10)
    quality.leg_ended(LegQuality(300, 0, 2.0, 80.0), 1)
    assert quality.jitter_ms(1) == pytest.approx(8)
    assert quality.mes(1) == pytest.approx(50)
    quality.leg_ended(LegQuality(1000, 0), 1 + 3 * TAU_S)
    loss = quality.loss(1 + 3 * TAU_S)
    assert loss is not None
    assert loss < 0.01
    assert quality.loss(1 + 20 * TAU_S) is None


@pytest.mark.parametrize("received", [-1, 1e12, float("nan"), float("inf")])
def test_impossible_counts_are_no_counts(received: float) -> None:
    quality = Quality()
    quality.leg_ended(LegQuality(100, 0, 1.0), 1)
    quality.leg_ended(LegQuality(received, 0, 1.0), 1)
    assert quality.loss(1) == 0


@pytest.mark.parametrize("mes", [-1, 0, 101, float("nan"), float("inf")])
def test_impossible_scores_are_no_scores(mes: float) -> None:
    quality = Quality()
    quality.leg_ended(LegQuality(100, 0, 1.0, 80.0), 1)
    quality.leg_ended(LegQuality(100, 0, 1.0, mes), 1)
    assert quality.mes(1) == 80
