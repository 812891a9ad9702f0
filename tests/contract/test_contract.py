"""The contract of pbx/base.py, run against every driver on recorded bytes and on real PBXs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from controller.errors import (
    CommandRefused,
    DeadlineExceeded,
    LinkLost,
    LoginRefused,
    ProtocolViolation,
    UsageError,
)
from controller.model import (
    CallAnswered,
    CallEnded,
    CallStarted,
    LoadSample,
    MediaChanged,
    NodeFacts,
    OriginateRequest,
    PhoneGone,
    PhoneRegistered,
)
from controller.pbx.base import PING_INTERVAL_S, VALUE_MAX_CHARS, Driver
from tests.contract import asterisk_cases, freeswitch_cases
from tests.contract.case import CALLER, PHONE, PLACEMENT, Case, Watcher, until

CASES: list[type[Case]] = [*asterisk_cases.CASES, *freeswitch_cases.CASES]


def marks(case: type[Case]) -> list[pytest.MarkDecorator]:
    real = [pytest.mark.lab, pytest.mark.freeswitch] if "freeswitch" in case.name else []
    return (real or [pytest.mark.lab]) if "live" in case.name else []


EACH = [pytest.param(case, id=case.name, marks=marks(case)) for case in CASES]


@pytest.fixture(params=EACH)
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    made: Case = request.param()
    for verb in request.node.iter_markers("needs"):
        if verb.args[0] not in made.can:
            pytest.skip(f"{made.name} cannot {verb.args[0]}")
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest.fixture
async def driver(case: Case) -> AsyncIterator[Driver]:
    made = case.driver()
    await made.connect()
    yield made
    await made.close()


@pytest.fixture
async def watch(driver: Driver) -> AsyncIterator[Watcher]:
    made = Watcher(driver)
    yield made
    await made.stop()


def needs(verb: str) -> pytest.MarkDecorator:
    return pytest.mark.needs(verb)


async def test_connect_tells_the_facts(case: Case) -> None:
    driver = case.driver()
    facts = await driver.connect()
    await driver.close()
    assert isinstance(facts, NodeFacts)
    assert facts.version.count(".") >= 2
    assert facts.uptime_s >= 0


@needs("wrong_password")
async def test_a_wrong_password_is_final(case: Case) -> None:
    driver = case.driver(secret="not the password")
    with pytest.raises(LoginRefused):
        await driver.connect()
    with pytest.raises(LinkLost):  # and the object is spent
        await driver.truth()


async def test_nobody_listens(case: Case) -> None:
    driver = case.driver()
    await case.stop()
    with pytest.raises((LinkLost, DeadlineExceeded)):
        await driver.connect()


@needs("freeze")
async def test_a_frozen_node_does_not_hold_connect(case: Case) -> None:
    driver = case.driver()
    await case.freeze()
    start_s = time.monotonic()
    with pytest.raises((LinkLost, DeadlineExceeded)):
        await driver.connect()
    assert time.monotonic() - start_s < 6


@needs("call")
async def test_a_call_is_told_once_and_in_order(case: Case, watch: Watcher) -> None:
    await case.ring()
    await watch.until(watch.started)
    started = watch.started()[0]
    assert (started.placement, started.caller) == (PLACEMENT, CALLER)
    await case.answer()
    await watch.until(lambda: CallAnswered(started.pbx_id) in watch.events)
    await case.end()
    await watch.until(watch.ended_calls)
    await asyncio.sleep(0.3)  # nothing may follow
    assert [type(e) for e in watch.calls] == [CallStarted, CallAnswered, CallEnded]
    assert {getattr(e, "pbx_id", "") for e in watch.calls} == {started.pbx_id}


@needs("repeat")
async def test_what_the_pbx_repeats_is_not_repeated(case: Case, watch: Watcher) -> None:
    await case.ring()
    await case.answer()
    await case.end()
    await watch.until(watch.ended_calls)
    await case.repeat()
    await asyncio.sleep(0.3)
    assert len(watch.calls) == 3


@needs("two_legs")
async def test_a_call_of_many_legs_is_one_call(case: Case, driver: Driver, watch: Watcher) -> None:
    await case.two_legs()
    await watch.until(lambda: any(isinstance(e, CallAnswered) for e in watch.events))
    await asyncio.sleep(0.3)
    (call,) = await driver.truth()
    assert call.legs > 1
    assert (call.placement, call.answered) == (PLACEMENT, True)
    assert await driver.hangup(call.pbx_id)
    await watch.until(watch.ended_calls)
    assert [type(e) for e in watch.calls] == [CallStarted, CallAnswered, CallEnded]
    assert not await driver.truth()


@needs("call")
async def test_truth_follows_the_call(case: Case, driver: Driver, watch: Watcher) -> None:
    assert not await driver.truth()
    await case.ring()
    await watch.until(watch.started)
    pbx_id = watch.started()[0].pbx_id
    (ringing,) = await driver.truth()
    assert (ringing.pbx_id, ringing.answered, ringing.legs) == (pbx_id, False, 1)
    assert (ringing.placement, ringing.caller) == (PLACEMENT, CALLER)
    await case.answer()
    await watch.until(lambda: CallAnswered(pbx_id) in watch.events)
    (answered,) = await driver.truth()
    assert answered.answered
    await case.end()
    await watch.until(watch.ended_calls)
    assert not await driver.truth()


@needs("call")
async def test_a_driver_that_comes_late_knows_the_calls(case: Case, watch: Watcher) -> None:
    await case.ring()
    await watch.until(watch.started)
    late = case.driver()
    await late.connect()
    seen = Watcher(late)
    await late.truth()
    await seen.until(seen.started)
    pbx_id = seen.started()[0].pbx_id
    assert pbx_id == watch.started()[0].pbx_id
    await case.answer()
    await seen.until(lambda: CallAnswered(pbx_id) in seen.events)
    await case.end()
    await seen.until(seen.ended_calls)
    assert [type(e) for e in seen.calls] == [CallStarted, CallAnswered, CallEnded]
    await seen.stop()
    await late.close()


async def test_load_is_told(driver: Driver, watch: Watcher) -> None:
    await watch.until(lambda: any(isinstance(e, LoadSample) for e in watch.events))
    sample = next(e for e in watch.events if isinstance(e, LoadSample))
    assert sample.channels == 0
    assert sample.cpu is None or 0 <= sample.cpu <= 1


async def test_a_quiet_node_is_not_silent(driver: Driver, watch: Watcher) -> None:
    worst_s = 0.0
    for _ in range(150):
        worst_s = max(worst_s, driver.silence_s())
        await asyncio.sleep(0.01)
    assert 0 < worst_s < 2 * PING_INTERVAL_S


@needs("freeze")
async def test_a_frozen_node_is_silent_and_no_command_waits_for_ever(
    case: Case, driver: Driver, watch: Watcher
) -> None:
    await case.freeze()
    await until(lambda: driver.silence_s() > 1.5, 4)
    start_s = time.monotonic()
    with pytest.raises((DeadlineExceeded, LinkLost)):
        await driver.resume()
    assert time.monotonic() - start_s < 6
    # a half-open link never ends by itself: the driver ends it
    await watch.until(lambda: isinstance(watch.ended, LinkLost), 12)


async def test_a_closed_link_ends_the_watch_at_once(
    case: Case, driver: Driver, watch: Watcher
) -> None:
    await asyncio.sleep(0)
    start_s = time.monotonic()
    await case.cut()
    await watch.until(lambda: watch.ended is not None, 2)
    assert isinstance(watch.ended, LinkLost)
    assert time.monotonic() - start_s < 0.5
    for command in (driver.truth(), driver.drain(), driver.connect()):
        with pytest.raises(LinkLost):
            await command


async def test_close_is_repeatable_and_ends_the_watch(driver: Driver, watch: Watcher) -> None:
    await driver.close()
    await driver.close()
    await watch.until(lambda: isinstance(watch.ended, LinkLost), 2)


@needs("originate")
async def test_originate_names_its_call_and_placement(
    case: Case, driver: Driver, watch: Watcher
) -> None:
    request = OriginateRequest(case.endpoint, case.context, case.exten, "pl-contract-2")
    pbx_id = await driver.originate(request)
    await watch.until(lambda: CallAnswered(pbx_id) in watch.events)
    (started,) = watch.started()
    assert (started.pbx_id, started.placement) == (pbx_id, "pl-contract-2")
    (call,) = await driver.truth()
    assert (call.pbx_id, call.placement) == (pbx_id, "pl-contract-2")


@needs("originate")
async def test_originate_to_nowhere_is_refused(case: Case, driver: Driver) -> None:
    with pytest.raises(CommandRefused):
        await driver.originate(
            OriginateRequest(case.dead_endpoint, case.context, case.exten, "pl-contract-2")
        )


@needs("originate")
@pytest.mark.parametrize("bad", ["x\r\nAction: Originate", "x\nApplication: System", "x\0"])
@pytest.mark.parametrize("place", ["endpoint", "context", "exten", "placement", "caller"])
async def test_no_line_break_goes_out(
    case: Case, driver: Driver, watch: Watcher, bad: str, place: str
) -> None:
    honest = OriginateRequest(case.endpoint, case.context, case.exten, "pl-contract-3", "123")
    with pytest.raises(UsageError):
        await driver.originate(msgspec.structs.replace(honest, **{place: bad}))
    with pytest.raises(UsageError):
        await driver.reload(bad)
    assert not await driver.truth()
    assert not watch.started()


@needs("hangup")
async def test_hangup_of_a_call_that_is_not(driver: Driver) -> None:
    for pbx_id in ("no such call", "/.*/", "", "x\r\nAction: CoreStatus"):
        assert await driver.hangup(pbx_id) is False


@needs("hangup")
async def test_hangup_carries_its_cause(case: Case, driver: Driver, watch: Watcher) -> None:
    await case.two_legs()
    await watch.until(lambda: any(isinstance(e, CallAnswered) for e in watch.events))
    assert await driver.hangup(watch.started()[0].pbx_id, 21)
    await watch.until(watch.ended_calls)
    assert watch.ended_calls()[0].cause == 21


@needs("record")
async def test_recording_follows_one_leg_of_the_call(
    case: Case, driver: Driver, watch: Watcher
) -> None:
    path, on_end = case.audio_file(), "/nowhere/recorded.lua"
    assert await driver.start_recording("no such call", path, 8000, on_end) == ""
    await case.two_legs()
    await watch.until(lambda: any(isinstance(e, CallAnswered) for e in watch.events))
    pbx_id = watch.started()[0].pbx_id
    for bad in ("/tmp/x\r\nAction: Originate", "/tmp/x\n", "/tmp/x\0"):
        with pytest.raises(UsageError):
            await driver.start_recording(pbx_id, bad, 8000, on_end)
    leg = await driver.start_recording(pbx_id, path, 8000, on_end)
    assert leg
    await driver.mask_recording(leg, path, True)
    await driver.mask_recording(leg, path, False)
    for _ in range(2):
        await driver.stop_recording(leg, path)
    with pytest.raises(CommandRefused):
        await driver.mask_recording("no such leg", path, True)
    await driver.stop_recording("no such leg", path)


@needs("drain")
async def test_drain_refuses_new_calls_and_resume_takes_them(
    case: Case, driver: Driver, watch: Watcher
) -> None:
    await driver.drain()
    await driver.drain()
    if "live" in case.name:  # recorded bytes refuse nobody
        await case.ring()
        await asyncio.sleep(1.0)
        assert not watch.started()
    await driver.resume()
    await driver.resume()
    await case.ring()
    await watch.until(watch.started)


@needs("secure")
async def test_an_unencrypted_call_is_told_so(case: Case, driver: Driver, watch: Watcher) -> None:
    await case.ring()
    await watch.until(watch.started)
    await case.answer()
    await watch.until(lambda: any(isinstance(e, CallAnswered) for e in watch.events))
    (leg,) = await driver.secure(watch.started()[0].pbx_id)
    assert not leg.encrypted
    assert not await driver.secure("no such call")


@needs("register")
async def test_a_phone_is_told_as_it_comes_and_goes(
    case: Case, driver: Driver, watch: Watcher
) -> None:
    assert await driver.phones() == []
    await case.register(60)
    await watch.until(lambda: any(isinstance(e, PhoneRegistered) for e in watch.events))
    told = next(e for e in watch.events if isinstance(e, PhoneRegistered))
    (row,) = await listed_phones(driver, 1)
    assert (row.name, row.contact, row.transport) == (PHONE, told.contact, "tcp")
    assert told.name == PHONE
    assert 0 < row.expires_s <= 61
    assert "contract" in (row.user_agent, told.user_agent)
    await case.register(0)
    await watch.until(lambda: PhoneGone(PHONE, row.contact) in watch.events)
    await listed_phones(driver, 0)


async def listed_phones(driver: Driver, count: int) -> Sequence[PhoneRegistered]:
    """The list once it has so many: it may be behind the events."""
    end = time.monotonic() + 2
    while len(found := await driver.phones()) != count:
        assert time.monotonic() < end, found
    return found


@needs("srtp")
async def test_an_encrypted_call_is_told_so(case: Case, driver: Driver, watch: Watcher) -> None:
    await case.ring_secured()
    await watch.until(lambda: any(isinstance(e, CallAnswered) for e in watch.events))
    (leg,) = await driver.secure(watch.started()[0].pbx_id)
    assert leg.encrypted is True
    assert leg.suite in ("", "AES_CM_128_HMAC_SHA1_80")
    assert leg.signalling_tls is False
    assert leg.peer
    assert int(leg.local.rpartition(":")[2]) > 1023
    assert "inline" not in repr(leg)


@needs("srtp")
async def test_a_downgrade_leaves_the_call_encrypted_or_is_told(
    case: Case, driver: Driver, watch: Watcher
) -> None:
    """Taken, the re-INVITE leaves the old keys in use or `secure` says that it does not."""
    await case.ring_secured(then_clear=True)
    await watch.until(lambda: any(isinstance(e, CallAnswered) for e in watch.events))
    pbx_id = watch.started()[0].pbx_id
    if driver.recheck_s > 1:  # then an event must tell
        await watch.until(lambda: MediaChanged(pbx_id) in watch.events, 2)
        (leg,) = await driver.secure(pbx_id)
        assert leg.encrypted is False
    else:
        (leg,) = await driver.secure(pbx_id)
        assert leg.encrypted is True


async def test_reload_takes_known_parts_only(driver: Driver) -> None:
    await driver.reload("pjsip" if "asterisk" in type(driver).__name__.lower() else "sofia")
    with pytest.raises(UsageError):
        await driver.reload("res_rm_rf.so")


HOSTILE = [
    pytest.param(case, name, id=f"{case.name}-{name}") for case in CASES for name in case.hostile
]
FATAL = [
    pytest.param(case, name, id=f"{case.name}-{name}") for case in CASES for name in case.fatal
]


@pytest.mark.parametrize(("kind", "hostile"), HOSTILE)
async def test_hostile_bytes_cost_nothing(kind: type[Case], hostile: str) -> None:
    case = kind()
    await case.start()
    driver = case.driver()
    await driver.connect()
    watch = Watcher(driver)
    await case.inject(hostile)
    await watch.until(watch.started)
    await case.ring()
    await watch.until(lambda: len(watch.started()) == 2)
    await case.answer()
    await case.end()
    honest = watch.started()[-1].pbx_id
    await watch.until(lambda: honest in [e.pbx_id for e in watch.ended_calls()])
    assert watch.ended is None
    assert len(watch.started()) == 2
    assert len(watch.started()[0].caller) <= VALUE_MAX_CHARS
    await driver.truth()  # and commands are still answered
    await watch.stop()
    await driver.close()
    await case.stop()


@pytest.mark.parametrize(("kind", "hostile"), FATAL)
async def test_broken_framing_ends_the_link_at_once(kind: type[Case], hostile: str) -> None:
    case = kind()
    await case.start()
    driver = case.driver()
    await driver.connect()
    watch = Watcher(driver)
    await case.inject(hostile)
    await watch.until(lambda: watch.ended is not None, 2)
    assert isinstance(watch.ended, ProtocolViolation | LinkLost)
    assert not watch.started()
    await watch.stop()
    await case.stop()
