"""Calls out of channel events: real recordings first, then what hostile or broken ones do."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.model import (
    CallAnswered,
    CallEnded,
    CallPlaced,
    CallStarted,
    EventsLost,
    LoadSample,
    MediaChanged,
    NodeEvent,
    PhoneGone,
    PhoneRegistered,
)
from controller.pbx.esl_frames import EslEvent, FrameReader, decode_event
from controller.pbx.freeswitch_calls import Calls, ListedLeg, believed

DATA = Path(__file__).parent.parent / "data" / "esl"


def recorded(name: str) -> list[EslEvent]:
    frames = FrameReader().feed((DATA / f"{name}.json.esl").read_bytes())
    events = [decode_event(frame) for frame in frames]
    return [e for e in events if e is not None and e.get("Event-Name").startswith("CHANNEL_")]


def told(calls: Calls, events: list[EslEvent]) -> list[NodeEvent]:
    return [each for event in events for each in calls.take(event)]


def by_call(events: list[NodeEvent]) -> dict[str, list[NodeEvent]]:
    found: dict[str, list[NodeEvent]] = {}
    for event in events:
        assert not isinstance(event, LoadSample | EventsLost | PhoneRegistered | PhoneGone)
        if not isinstance(event, MediaChanged):
            found.setdefault(event.pbx_id, []).append(event)
    return found


def channel(name: str, leg: str, call: str = "", **more: str) -> EslEvent:
    values: dict[str, str | list[str]] = {
        "Event-Name": f"CHANNEL_{name}",
        "Unique-ID": leg,
        "Channel-Call-UUID": call or leg,
        **{key.replace("__", "-"): value for key, value in more.items()},
    }
    return EslEvent(values)


def answer(leg: str, call: str = "") -> EslEvent:
    return channel("ANSWER", leg, call, Answer__State="answered")


def test_one_placed_call() -> None:
    out = told(Calls(), recorded("call"))
    (pbx_id,) = by_call(out)
    assert out == [
        CallStarted(pbx_id, "pl-contract-1", "4930111", "wait"),
        CallAnswered(pbx_id),
        CallEnded(pbx_id, 16),
    ]


def test_two_legs_are_one_call() -> None:
    calls, events = Calls(), recorded("legs")
    out = told(calls, events[:-2])  # all but the two CHANNEL_DESTROY
    (call,) = calls.truth()
    assert (call.legs, call.answered, call.placement) == (2, True, "pl-contract-1")
    out += told(calls, events[-2:])
    assert out == [
        CallStarted(call.pbx_id, "pl-contract-1", "4930111", "leg"),
        CallAnswered(call.pbx_id),
        CallEnded(call.pbx_id, 21),
    ]
    assert not calls.truth()


def test_a_bridge_of_two_calls_keeps_the_placed_one() -> None:
    """FreeSWITCH names the agent's leg A, and so the call after it; ours goes on as it began."""
    calls, events = Calls(), recorded("merge")
    bridged = next(i for i, e in enumerate(events) if e.get("Event-Name") == "CHANNEL_BRIDGE")
    before = told(calls, events[:bridged])
    placed = before[0]
    assert isinstance(placed, CallStarted) and placed.placement == "pl-contract-1"
    agent = "aaaaaaaa-0000-4000-8000-000000000001"
    assert told(calls, events[bridged : bridged + 1]) == [
        CallEnded(agent, 0),
        MediaChanged(placed.pbx_id),
    ]
    (call,) = calls.truth()
    assert (call.pbx_id, call.legs) == (placed.pbx_id, 2)
    assert told(calls, events[bridged + 1 :]) == [CallEnded(placed.pbx_id, 16)]


@pytest.mark.parametrize("name", ["call", "legs", "merge", "cancel", "dial"])
def test_repeated_recordings_are_told_once(name: str) -> None:
    calls, events = Calls(), recorded(name)
    twice = [event for event in events for _ in range(2)]

    def but_media(told: list[NodeEvent]) -> list[NodeEvent]:
        """To ask about media once more does no harm."""
        return [event for event in told if not isinstance(event, MediaChanged)]

    assert but_media(told(calls, twice)) == but_media(told(Calls(), events))
    assert told(calls, events) == []


@pytest.mark.parametrize("name", ["call", "legs", "merge", "cancel", "dial"])
@given(data=st.data())
def test_whatever_is_lost_or_shuffled_the_order_holds(name: str, data: st.DataObject) -> None:
    """Started, then answered, then ended, each once a call; at the end a list corrects the rest."""
    calls = Calls()
    events = data.draw(st.lists(st.sampled_from(recorded(name)), max_size=30))
    out = told(calls, events)
    out += calls.correct([], calls.legs())
    assert not calls.truth()
    order = [CallStarted, CallPlaced, CallAnswered, CallEnded]
    for story in by_call(out).values():
        kinds = [order.index(type(e)) for e in story]
        assert kinds[0] == 0 and kinds[-1] == 3
        assert len(set(kinds)) == len(kinds)


def test_the_header_alone_is_not_believed() -> None:
    calls = Calls()
    create = channel("CREATE", "u", **{"variable_sip_h_X-Pbxctl-Placement": "pl-9"})
    assert told(calls, [create]) == []
    assert calls.waits("u")
    assert calls.placed("u", "") == [CallStarted("u")]
    assert not calls.waits("u")
    later = channel("PROGRESS", "u", variable_pbxctl_placement="pl-9")
    assert told(calls, [later, later]) == [CallPlaced("u", "pl-9")]


def test_the_dialplans_word_brings_the_placement() -> None:
    calls = Calls()
    told(calls, [channel("CREATE", "u", **{"variable_sip_h_X-Pbxctl-Placement": "pl-9"})])
    assert calls.placed("u", "pl-9") == [CallStarted("u", "pl-9")]
    assert told(Calls(), [channel("CREATE", "v")]) == [CallStarted("v")]


@pytest.mark.parametrize("text", ["a b", "a\nb", "{x}", "", "x" * 129, "pl-\u0661", "a\0"])
def test_a_placement_of_another_form_is_none(text: str) -> None:
    assert believed(text) == ""
    (started,) = told(Calls(), [channel("CREATE", "u", variable_pbxctl_placement=text)])
    assert started == CallStarted("u")


def test_long_caller_text_is_cut() -> None:
    event = channel("CREATE", "u", **{"Caller-Caller-ID-Number": "9" * 60_000})
    (started,) = told(Calls(), [event])
    assert isinstance(started, CallStarted) and len(started.caller) == 128


def test_the_list_adds_what_was_missed_and_ends_what_is_gone() -> None:
    calls = Calls()
    told(calls, [channel("CREATE", "a"), channel("CREATE", "gone"), channel("DESTROY", "gone")])
    out = calls.correct(
        [
            ListedLeg("b", "a", "", "1", "2", answered=True),  # joins a's call
            ListedLeg("c", "", "pl-1", "1", "2", answered=True),
            ListedLeg("gone", "", "", "1", "2", answered=True),  # the list is late
        ],
        ["a"],
    )
    # "a" had left, so "b" is alone in the call that a late CHANNEL_BRIDGE would still name.
    assert CallEnded("a") in out
    assert CallStarted("c", "pl-1", "1", "2") in out and CallAnswered("c") in out
    assert {call.pbx_id for call in calls.truth()} == {"b", "c"}


def test_a_renamed_leg_stays_in_its_call() -> None:
    calls = Calls()
    told(calls, [channel("CREATE", "old")])
    assert told(calls, [channel("UUID", "new", **{"Old-Unique-ID": "old"})]) == []
    assert told(calls, [answer("new"), channel("DESTROY", "new")]) == [
        CallAnswered("old"),
        CallEnded("old"),
    ]


def test_a_call_answers_with_its_first_leg() -> None:
    calls = Calls()
    out = told(calls, [channel("CREATE", "a"), channel("CREATE", "b", "a"), answer("b", "a")])
    assert out == [CallStarted("a")]
    assert told(calls, [answer("a")]) == [CallAnswered("a")]


def test_a_call_goes_on_with_its_second_leg() -> None:
    calls = Calls()
    told(calls, [channel("CREATE", "a"), channel("CREATE", "b", "a")])
    assert told(calls, [channel("DESTROY", "a", variable_hangup_cause_q850="17")]) == []
    assert told(calls, [channel("DESTROY", "b")]) == [CallEnded("a", 17)]


def test_load() -> None:
    calls = Calls()
    beat = EslEvent({"Max-Sessions": "101", "Session-Count": "7", "Idle-CPU": "28.200000"})
    sample = calls.load(beat, 10.0)
    assert sample.cpu == pytest.approx(0.718)
    assert msgspec.structs.replace(sample, cpu=None) == LoadSample(7, 101, 50)
    told(calls, [channel("CREATE", "a"), channel("CREATE", "b")])
    assert calls.load(beat, 12.0).arrivals_per_s == 1.0
    wild = EslEvent({"Max-Sessions": "nan", "Session-Count": "-1", "Idle-CPU": "1e999"})
    assert calls.load(wild, 13.0) == LoadSample(arrivals_per_s=0.0)
