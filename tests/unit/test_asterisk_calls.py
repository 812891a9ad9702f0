"""pbx/asterisk_calls.py: what the events of channels say about calls. No loop, no socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.model import CallAnswered, CallEnded, CallPlaced, CallStarted, NodeEvent
from controller.pbx.ami_message import Received, parse
from controller.pbx.asterisk_calls import LEGS_MAX, PLACEMENT_WAIT_S, Calls, Leg, Truth
from tests.contract.ami_wire import DATA, read

LATER_S = PLACEMENT_WAIT_S + 0.001


def event(name: str, uniqueid: str, linkedid: str = "", **headers: str) -> Received:
    lines = [f"Event: {name}", f"Uniqueid: {uniqueid}", f"Linkedid: {linkedid or uniqueid}"]
    lines += [f"{k}: {v}" for k, v in {"Channel": f"PJSIP/t-{uniqueid}", **headers}.items()]
    return parse("\r\n".join(lines).encode())


def new(uniqueid: str, linkedid: str = "", **headers: str) -> Received:
    return event("Newchannel", uniqueid, linkedid, **headers)


def placed(uniqueid: str, placement: str, linkedid: str = "") -> Received:
    return event("VarSet", uniqueid, linkedid, Variable="PBXCTL_PLACEMENT", Value=placement)


def up(uniqueid: str, linkedid: str = "") -> Received:
    return event("Newstate", uniqueid, linkedid, ChannelState="6")


def hangup(uniqueid: str, linkedid: str = "", cause: str = "16") -> Received:
    return event("Hangup", uniqueid, linkedid, Cause=cause)


def play(*messages: Received, calls: Calls | None = None) -> list[NodeEvent]:
    calls = calls or Calls()
    return [told for message in messages for told in calls.feed(message, 0.0)]


def test_the_start_waits_for_the_placement() -> None:
    told = play(new("1", CallerIDNum="49", Exten="100"), placed("1", "p"), up("1"), hangup("1"))
    assert told == [
        CallStarted("1", "p", "49", "100"), CallAnswered("1"), CallEnded("1", 16)
    ]  # fmt: skip


def test_without_placement_the_start_comes_after_a_while_and_the_placement_later() -> None:
    calls = Calls()
    assert calls.feed(new("1"), 0.0) == []
    assert calls.release(PLACEMENT_WAIT_S / 2) == []
    assert calls.release(LATER_S) == [CallStarted("1")]
    assert calls.release(LATER_S) == []
    assert calls.feed(placed("1", "p"), 1.0) == [CallPlaced("1", "p")]
    assert calls.feed(placed("1", "q"), 1.0) == []  # the first one counts


def test_channelvars_bring_the_placement_too() -> None:
    first = event("Newstate", "1", ChannelState="4", ChanVariable="OTHER=x")
    assert play(new("1"), first) == []
    second = parse(
        b"Event: Newstate\r\nUniqueid: 1\r\nLinkedid: 1\r\nChannelState: 5\r\n"
        b"ChanVariable: OTHER=x\r\nChanVariable: PBXCTL_PLACEMENT=p"
    )
    assert play(new("1"), first, second) == [CallStarted("1", "p")]


@pytest.mark.parametrize("release", [up("1"), hangup("1")])
def test_answer_and_end_do_not_wait(release: Received) -> None:
    assert play(new("1"), release)[0] == CallStarted("1")


def test_the_call_ends_with_its_last_leg_and_the_first_legs_cause() -> None:
    told = play(
        new("1"), placed("1", "p"), new("2", "1"), up("2", "1"), up("1"),
        hangup("1", cause="21"), hangup("2", "1", cause="16"),
    )  # fmt: skip
    assert told == [CallStarted("1", "p"), CallAnswered("1"), CallEnded("1", 21)]


def test_the_far_leg_up_is_not_the_answer() -> None:
    assert not [e for e in play(new("1"), new("2", "1"), up("2", "1")) if e == CallAnswered("1")]


@pytest.mark.parametrize(
    ("cause", "number"), [("", 0), ("x", 0), ("٣", 3), ("200", 0), ("9" * 9, 0)]
)
def test_a_cause_is_a_small_number(cause: str, number: int) -> None:
    assert play(new("1"), hangup("1", cause=cause))[-1] == CallEnded("1", number)


def test_a_gone_leg_does_not_come_back() -> None:
    calls = Calls()
    assert len(play(new("1"), hangup("1"), calls=calls)) == 2
    row = event("CoreShowChannel", "1", ChannelState="6")
    assert play(hangup("1"), up("1"), new("1"), row, calls=calls) == []
    assert not calls.legs


@pytest.mark.parametrize("ids", [("/.*/", "1"), ("1", "/x/"), ("", "1"), ("1" * 151, "1")])
def test_ids_that_asterisk_does_not_make(ids: tuple[str, str]) -> None:
    calls = Calls()
    raw = f"Event: Newchannel\r\nUniqueid: {ids[0]}\r\nLinkedid: {ids[1]}"
    assert calls.feed(parse(raw.encode()), 0.0) == []
    assert calls.bad_events == 1


def test_a_leg_whose_hangup_was_lost_ends_with_the_second_list() -> None:
    calls = Calls()
    play(new("1"), new("2"), calls=calls)
    assert calls.listed({"1", "2"}, {"2"}) == []  # its Hangup may be on its way
    assert calls.listed({"1", "2"}, {"2"}) == [CallStarted("1"), CallEnded("1")]
    assert calls.listed({"2"}, {"2"}) == []


RECORDINGS = {
    "bridge-old-pull-old.txt": (1, 2),
    "bridge-pull-young-young.txt": (1, 2),
    "bridge-conf-conf.txt": (2, 2),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_two_calls_that_meet_agree_with_the_truth(name: str) -> None:
    """After the bridge, our calls are those that Asterisk lists; at the end none is left."""
    alive, started = RECORDINGS[name]
    calls, told = Calls(), list[NodeEvent]()
    for section in read(DATA / name)[1]:
        for raw in section.events:
            message = parse(raw)
            if "Uniqueid" in message.headers:
                told += calls.feed(message, 0.0)
        if section.name == "list":
            truth = Truth()
            for raw in section.exchanges[0].answers[1:-1]:
                truth.add(parse(raw))
            assert {c.pbx_id for c in truth.calls(calls)} == set(calls.calls)
            assert len(calls.calls) == alive
            assert [c.legs for c in truth.calls(calls)] == [2 // alive] * alive
    assert sum(isinstance(e, CallStarted) for e in told) == started
    assert sum(isinstance(e, CallEnded) for e in told) == started
    assert not calls.legs
    assert not calls.calls
    assert not calls._bridges


def test_truth_takes_caller_and_answer_from_the_first_leg() -> None:
    truth = Truth()
    truth.add(event("CoreShowChannel", "2", "1", ChannelState="6", CallerIDNum="far"))
    truth.add(
        event("CoreShowChannel", "1", ChannelState="4", CallerIDNum="near",
              ChanVariable="PBXCTL_PLACEMENT=p")
    )  # fmt: skip
    (call,) = truth.calls(Calls())
    assert (call.caller, call.answered, call.legs, call.placement) == ("near", False, 2, "p")


ids = st.sampled_from([str(n) for n in range(6)])
anything = st.one_of(
    st.builds(new, ids, ids),
    st.builds(up, ids, ids),
    st.builds(hangup, ids, ids),
    st.builds(placed, ids, st.just("p"), ids),
    st.builds(
        lambda u, lid, b: event("BridgeEnter", u, lid, BridgeUniqueid=b, BridgeType="basic"),
        ids, ids, st.sampled_from("AB"),
    ),
    st.builds(lambda u, lid: event("BridgeLeave", u, lid), ids, ids),
)  # fmt: skip


@given(messages=st.lists(anything, max_size=40), pauses=st.lists(st.booleans(), max_size=40))
def test_whatever_comes_a_call_starts_once_and_ends_once(
    messages: list[Received], pauses: list[bool]
) -> None:
    calls, told, now_s = Calls(), list[NodeEvent](), 0.0
    for number, message in enumerate(messages):
        told += calls.feed(message, now_s)
        if pauses[number : number + 1] == [True]:
            now_s += 1.0
            told += calls.release(now_s)
        # every leg is in exactly one call, and in the one that it says
        legs = {leg: pbx_id for pbx_id, call in calls.calls.items() for leg in call.legs}
        assert legs == {uniqueid: leg.linkedid for uniqueid, leg in calls.legs.items()}
        assert sum(len(call.legs) for call in calls.calls.values()) == len(calls.legs)
        assert all(call.legs for call in calls.calls.values())
    for pbx_id in {getattr(e, "pbx_id", "") for e in told}:
        kinds = [type(e) for e in told if getattr(e, "pbx_id", "") == pbx_id]
        assert kinds.count(CallStarted) == 1
        assert kinds[0] is CallStarted
        assert kinds.count(CallAnswered) <= 1
        assert kinds.count(CallEnded) <= 1
        assert CallEnded not in kinds[:-1]


def test_channels_have_a_cap() -> None:
    calls = Calls()
    calls.legs.update((str(n), Leg(str(n), "")) for n in range(LEGS_MAX))
    assert calls.feed(new("one more"), 0.0) == []
    assert calls.bad_events == 1
