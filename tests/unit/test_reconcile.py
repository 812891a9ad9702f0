"""The live set: what events and the node's list say, merged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.fleet.reconcile import GRACE_S, LiveSet
from controller.model import CallAnswered, CallEnded, CallPlaced, CallStarted, CallTruth

OLD = 100.0
ASKED = 200.0


def live(*events: tuple[object, float]) -> LiveSet:
    calls = LiveSet()
    for event, at_s in events:
        calls.apply(event, at_s)  # type: ignore[arg-type]
    return calls


def test_what_was_missed_is_taken_from_the_list() -> None:
    calls = live((CallStarted("gone"), OLD), (CallStarted("kept"), OLD))
    erred = calls.mend([CallTruth("kept"), CallTruth("new", "p-1")], ASKED)
    assert erred == 2
    assert set(calls.calls) == {"kept", "new"}
    assert calls.calls["new"].placement == "p-1"


def test_a_call_that_ended_around_the_list_stays_ended() -> None:
    before = live((CallStarted("a"), OLD), (CallEnded("a"), ASKED - GRACE_S / 2))
    assert before.mend([CallTruth("a")], ASKED) == 0
    assert not before.calls
    during = live((CallStarted("a"), OLD), (CallEnded("a"), ASKED + 0.1))
    assert during.mend([CallTruth("a")], ASKED) == 0
    assert not during.calls


def test_a_call_that_started_around_the_list_stays() -> None:
    calls = live((CallStarted("a"), ASKED - 0.1), (CallStarted("b"), ASKED + 0.1))
    assert calls.mend([], ASKED) == 0
    assert set(calls.calls) == {"a", "b"}


def test_a_forgotten_end_yields_to_the_list_in_time() -> None:
    calls = live((CallStarted("a"), OLD), (CallEnded("a"), OLD + 1))
    calls.mend([CallTruth("a")], ASKED)
    assert set(calls.calls) == {"a"}


def test_what_events_told_of_a_call_outlives_the_list() -> None:
    calls = live((CallStarted("a"), OLD), (CallPlaced("a", "p-1"), OLD), (CallAnswered("a"), OLD))
    calls.mend([CallTruth("a")], ASKED)
    assert calls.calls["a"] == CallTruth("a", "p-1", answered=True)


IDS = st.sampled_from("abcdef")


@given(st.lists(st.tuples(IDS, st.booleans())), st.sets(IDS))
def test_old_events_never_outweigh_the_list(
    events: list[tuple[str, bool]], listed: set[str]
) -> None:
    calls = LiveSet()
    for pbx_id, starts in events:
        calls.apply(CallStarted(pbx_id) if starts else CallEnded(pbx_id), OLD)
    calls.mend([CallTruth(i) for i in listed], ASKED)
    assert set(calls.calls) == listed
    assert calls.mend([CallTruth(i) for i in listed], ASKED) == 0
