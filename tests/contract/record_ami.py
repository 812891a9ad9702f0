"""Records tests/data/ami/*.txt anew from a real Asterisk: python -m tests.contract.record_ami"""

from __future__ import annotations

import asyncio
import contextlib

from controller.errors import CommandRefused
from controller.model import CallAnswered, OriginateRequest
from tests.contract.ami_wire import DATA, Recorder
from tests.contract.asterisk_cases import LiveAsterisk
from tests.contract.case import Watcher, until
from tests.lab.asterisk import AMI_PORT


async def record() -> None:
    case = LiveAsterisk()
    await case.start()
    recorder = Recorder(case.host, case.port)
    case.port = await recorder.start(case.host)
    driver = case.driver()
    try:
        await driver.connect()
        watch = Watcher(driver)
        recorder.section("ring")
        await case.ring()
        await watch.until(lambda: len(watch.started()) == 1)
        await driver.truth()
        recorder.section("answer")
        await case.answer()
        await watch.until(lambda: any(isinstance(e, CallAnswered) for e in watch.events))
        await driver.truth()
        await driver.secure(watch.started()[0].pbx_id)
        recorder.section("end")
        await case.end()
        await watch.until(lambda: len(watch.ended_calls()) == 1)
        await driver.truth()
        recorder.section("drain")
        await driver.drain()
        await driver.resume()
        await driver.reload("pjsip")
        recorder.section("two_legs")
        await case.two_legs()
        await watch.until(lambda: len(watch.started()) == 2)
        await until(lambda: len([e for e in watch.events if isinstance(e, CallAnswered)]) == 2)
        await asyncio.sleep(0.5)  # the bridges of the two legs
        await driver.truth()
        await driver.secure(watch.started()[1].pbx_id)
        recorder.section("after Hangup")
        await driver.hangup(watch.started()[1].pbx_id, 21)
        await watch.until(lambda: len(watch.ended_calls()) == 2)
        await driver.truth()
        for endpoint in (case.endpoint, case.dead_endpoint):
            recorder.section(f"after Originate {endpoint}")
            with contextlib.suppress(CommandRefused):
                await driver.originate(
                    OriginateRequest(endpoint, case.context, case.exten, "pl-contract-2")
                )
            await asyncio.sleep(0.5)  # until it is answered
            await driver.truth()
            if endpoint == case.endpoint:
                await driver.hangup(watch.started()[-1].pbx_id)
                await watch.until(lambda: len(watch.ended_calls()) == 3)
        await watch.stop()
        recorder.save(DATA / "session.txt")
        for first, second in (("old", "pull-old"), ("pull-young", "young"), ("conf", "conf")):
            await record_two(case, first, second)
    finally:
        await driver.close()
        await recorder.stop()
        await case.stop()


async def record_two(case: LiveAsterisk, first: str, second: str) -> None:
    """Two calls from outside that meet in one bridge, and end."""
    recorder = Recorder(case.host, AMI_PORT)
    case.port = await recorder.start(case.host)
    driver = case.driver()
    try:
        await driver.connect()
        recorder.section("meet")
        await case.dial(first)
        await asyncio.sleep(1.1)  # another second in the Uniqueid
        await case.dial(second)
        await asyncio.sleep(1.0)
        recorder.section("list")
        await driver.truth()
        recorder.section("end")
        await case.end()
        await asyncio.sleep(0.5)
        recorder.save(DATA / f"bridge-{first}-{second}.txt")
    finally:
        await driver.close()
        await recorder.stop()


if __name__ == "__main__":
    asyncio.run(record())
