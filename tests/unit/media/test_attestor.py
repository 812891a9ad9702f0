"""The attestor between a scripted driver and a scripted picture: order, silence, repetition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from controller.errors import DeadlineExceeded, LinkLost
from controller.fleet.state import Attestation
from controller.media.policy import Demands, judge
from controller.model import (
    CallAnswered,
    CallEnded,
    CallTruth,
    MediaChanged,
    NodeEvent,
    NodeFacts,
    OriginateRequest,
    PhoneRegistered,
    Security,
)
from controller.pbx.attestor import ASKERS, Attestor
from controller.pbx.base import Driver
from tests.lab.until import eventually

CLEAR = [Security("leg", False, peer="1001")]
SECURE = [Security("leg", True, "AES_CM_128_HMAC_SHA1_80", peer="1001")]


class ScriptedDriver(Driver):
    """answer: what `secure` does. hung_up: pbx_id and cause of each hang-up, in order."""

    recheck_s = 0.2

    def __init__(self, answer: Callable[[str], Awaitable[Sequence[Security]]]) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.hung_up: list[tuple[str, int]] = []

    async def secure(self, pbx_id: str) -> Sequence[Security]:
        self.asked.append(pbx_id)
        return await self.answer(pbx_id)

    async def hangup(self, pbx_id: str, cause: int = 16) -> bool:
        self.hung_up.append((pbx_id, cause))
        return True

    async def connect(self) -> NodeFacts:
        raise NotImplementedError

    def watch(self) -> AsyncIterator[Sequence[NodeEvent]]:
        raise NotImplementedError

    def silence_s(self) -> float:
        return 0.0

    async def truth(self) -> Sequence[CallTruth]:
        return []

    async def originate(self, request: OriginateRequest) -> str:
        raise NotImplementedError

    async def drain(self) -> None: ...

    async def resume(self) -> None: ...

    async def phones(self) -> Sequence[PhoneRegistered]:
        return []

    async def start_recording(self, pbx_id: str, path: str, rate_hz: int, on_end: str) -> str:
        return ""

    async def stop_recording(self, leg: str, path: str) -> None: ...

    async def mask_recording(self, leg: str, path: str, on: bool) -> None: ...

    async def reload(self, module: str) -> None: ...

    async def close(self) -> None: ...


class Picture:
    def __init__(self) -> None:
        self.written: list[tuple[str, Attestation]] = []
        self.away = False

    async def write(self, pbx_id: str, told: Attestation, ports: list[int]) -> bool:
        await asyncio.sleep(0)
        if not self.away:
            self.written.append((pbx_id, told))
        return not self.away


def always(legs: Sequence[Security]) -> Callable[[str], Awaitable[Sequence[Security]]]:
    async def answer(_: str) -> Sequence[Security]:
        return legs

    return answer


async def never(_: str) -> Sequence[Security]:
    await asyncio.sleep(60)
    return []


@asynccontextmanager
async def running(driver: Driver, picture: Picture) -> AsyncIterator[Attestor]:
    demands = Demands("require", "require", {"soft*": "prefer"})
    attestor = Attestor("n1", lambda legs, waited_s: judge(demands, legs, waited_s), picture.write)
    task = asyncio.create_task(attestor.run(driver))
    yield attestor
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_what_the_agent_sees_in_clear_ends_a_call_that_the_pbx_calls_encrypted() -> None:
    """Where it was asked to look, and nowhere else."""
    legs = [Security("a", True, peer="1001", local="192.0.2.1:4000"), *SECURE]
    driver, picture, found = ScriptedDriver(always(legs)), Picture(), list[tuple[str, int]]()

    async def seen() -> Sequence[tuple[str, int]]:
        taken, found[:] = list(found), []
        return taken

    demands = Demands("require", "require", {})
    attestor = Attestor(
        "n1", lambda legs, waited_s: judge(demands, legs, waited_s), picture.write, 1.0, seen
    )
    task = asyncio.create_task(attestor.run(driver))
    attestor.heard([CallAnswered("c1")])
    await eventually(lambda: picture.written, 2, "written")
    found += [("c1", 4002), ("nobody", 4000)]
    await eventually(lambda: not found, 2, "heard")
    await asyncio.sleep(0.3)
    assert not driver.hung_up
    found.append(("c1", 4000))
    began_s = time.monotonic()
    await eventually(lambda: driver.hung_up, 2, "hung up")
    assert time.monotonic() - began_s < 1
    assert picture.written[-1][1].verdict == "plain"
    assert "packets of 1001 on the wire" in picture.written[-1][1].reason
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_an_answered_call_is_asked_about_and_written_once() -> None:
    driver, picture = ScriptedDriver(always(SECURE)), Picture()
    async with running(driver, picture) as attestor:
        attestor.heard([CallAnswered("c1")])
        await eventually(lambda: picture.written, 2, "written")
        await eventually(lambda: len(driver.asked) > 2, 2, "asked again")
    ((pbx_id, told),) = picture.written
    assert (pbx_id, told.verdict, told.action) == ("c1", "encrypted", "none")
    assert told.legs[0].suite == "AES_CM_128_HMAC_SHA1_80"
    assert not driver.hung_up


async def test_a_clear_call_is_hung_up_though_the_picture_is_away() -> None:
    driver, picture = ScriptedDriver(always(CLEAR)), Picture()
    picture.away = True
    async with running(driver, picture) as attestor:
        attestor.heard([CallAnswered("c1")])
        await eventually(lambda: driver.hung_up, 1, "hung up")
        picture.away = False  # and it is written down once it can be
        await eventually(lambda: picture.written, 2, "written")
    assert driver.hung_up[0] == ("c1", 57)


@pytest.mark.parametrize(("legs", "ended"), [(SECURE, False), (CLEAR, True)])
async def test_silence_on_the_next_link_is_judged_by_what_was_told_on_the_last(
    legs: list[Security], ended: bool
) -> None:
    driver, picture = ScriptedDriver(always(legs)), Picture()
    call = CallTruth("c1", answered=True)
    async with running(driver, picture) as attestor:
        attestor.listed([call])
        await eventually(lambda: picture.written, 2, "written")
    driver.answer = never
    driver.hung_up.clear()
    attestor.begin()
    task = asyncio.create_task(attestor.run(driver))
    attestor.listed([call])
    await asyncio.sleep(1.2)
    assert bool(driver.hung_up) is ended
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_hang_up_without_effect_is_repeated() -> None:
    driver, picture = ScriptedDriver(always(CLEAR)), Picture()
    async with running(driver, picture) as attestor:
        attestor.heard([CallAnswered("c1")])
        await eventually(lambda: len(driver.hung_up) > 2, 2, "hung up again")
        attestor.heard([CallEnded("c1")])
        count = len(driver.hung_up)
        await asyncio.sleep(0.5)
    assert len(driver.hung_up) == count
    assert len(picture.written) == 1


async def test_what_no_event_tells_is_noticed() -> None:
    driver, picture = ScriptedDriver(always(SECURE)), Picture()
    async with running(driver, picture) as attestor:
        attestor.heard([CallAnswered("c1")])
        await eventually(lambda: picture.written, 2, "written")
        driver.answer = always(CLEAR)
        await eventually(lambda: driver.hung_up, 2, "hung up")
        await eventually(lambda: len(picture.written) == 2, 1, "written")
    assert [told.verdict for _, told in picture.written] == ["encrypted", "plain"]


async def test_a_change_that_is_told_is_asked_about_at_once() -> None:
    driver, picture = ScriptedDriver(always(SECURE)), Picture()
    driver.recheck_s = 60
    async with running(driver, picture) as attestor:
        attestor.heard([CallAnswered("c1")])
        await eventually(lambda: picture.written, 2, "written")
        driver.answer = always(CLEAR)
        attestor.heard([MediaChanged("c1")])
        await eventually(lambda: driver.hung_up, 1, "hung up")


async def test_a_silent_pbx_is_no_proof_but_takes_none_away_either() -> None:
    """A call never attested is hung up after the grace; one attested before is left alone."""
    driver, picture = ScriptedDriver(always(SECURE)), Picture()
    async with running(driver, picture) as attestor:
        attestor.heard([CallAnswered("old")])
        await eventually(lambda: picture.written, 2, "written")
        driver.answer = never
        begun_s = time.monotonic()
        attestor.heard([CallAnswered("new")])
        await eventually(lambda: driver.hung_up, 2, "hung up")
        assert 0.5 <= time.monotonic() - begun_s < 1
        await asyncio.sleep(0.8)
    assert {pbx_id for pbx_id, _ in driver.hung_up} == {"new"}


async def test_a_leg_that_cannot_tell_while_it_ends_is_no_alarm() -> None:
    driver, picture = ScriptedDriver(always(SECURE)), Picture()
    async with running(driver, picture) as attestor:
        attestor.heard([CallAnswered("c1")])
        await eventually(lambda: picture.written, 2, "written")
        await asyncio.sleep(0.6)  # longer than the grace after its answer
        driver.answer = always([Security("leg", None, peer="1001")])
        attestor.heard([MediaChanged("c1")])
        await asyncio.sleep(0.2)
        attestor.heard([CallEnded("c1")])
        await asyncio.sleep(0.6)
    assert not driver.hung_up
    assert len(picture.written) == 1


async def test_a_leg_that_can_no_longer_tell_is_in_clear_after_the_grace() -> None:
    driver, picture = ScriptedDriver(always(SECURE)), Picture()
    async with running(driver, picture) as attestor:
        attestor.heard([CallAnswered("c1")])
        await eventually(lambda: picture.written, 2, "written")
        driver.answer = always([Security("leg", None, peer="1001")])
        await eventually(lambda: driver.hung_up, 3, "hung up")
        await eventually(lambda: picture.written[-1][1].verdict == "unknown", 1, "written")


async def test_one_failure_is_asked_again_at_once() -> None:
    driver, picture = ScriptedDriver(always(SECURE)), Picture()
    asked = 0

    async def second_time(_: str) -> Sequence[Security]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise DeadlineExceeded("busy")
        return SECURE

    driver.answer = second_time
    async with running(driver, picture) as attestor:
        attestor.heard([CallAnswered("c1")])
        await eventually(lambda: picture.written, 2, "written")
    assert picture.written[0][1].verdict == "encrypted"


async def test_a_lost_link_ends_it() -> None:
    async def lost(_: str) -> Sequence[Security]:
        raise LinkLost("gone")

    attestor = Attestor("n1", lambda *_: pytest.fail("nothing to judge"), Picture().write)
    attestor.heard([CallAnswered("c1")])
    with pytest.raises(LinkLost):
        async with asyncio.timeout(2):
            await attestor.run(ScriptedDriver(lost))


async def test_few_questions_are_open_at_a_time() -> None:
    open_now = most = 0

    async def slow(_: str) -> Sequence[Security]:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.01)
        open_now -= 1
        return SECURE

    driver, picture = ScriptedDriver(slow), Picture()
    driver.recheck_s = 60
    async with running(driver, picture) as attestor:
        attestor.heard([CallAnswered(f"c{n}") for n in range(100)])
        await eventually(lambda: len(picture.written) == 100, 3, "all written")
    assert most == ASKERS


async def test_the_nodes_own_list_brings_calls_and_takes_them_away() -> None:
    driver, picture = ScriptedDriver(always(SECURE)), Picture()
    async with running(driver, picture) as attestor:
        attestor.listed([CallTruth("c1", answered=True), CallTruth("ringing")])
        await eventually(lambda: picture.written, 2, "written")
        attestor.listed([])
        count = len(driver.asked)
        await asyncio.sleep(0.5)
    assert len(driver.asked) <= count + 1
    assert [pbx_id for pbx_id, _ in picture.written] == ["c1"]
