"""The driver on a small server: what the contract suite cannot make a FreeSWITCH do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import msgspec
import pytest

from controller.errors import CommandRefused, LinkLost, UsageError
from controller.model import CallStarted, EventsLost, Kind, NodeFacts, OriginateRequest
from controller.pbx import freeswitch_text as text
from controller.pbx.freeswitch import FreeSwitchDriver
from controller.pbx.hub import EventQueue, GreenHub
from tests.contract.case import Watcher, until
from tests.esl_server import STATUS, EslServer, frame

GOOD = OriginateRequest("sofia/trunk/100@192.0.2.1:5060", "services", "echo", "pl-1", "+4930123")


@pytest.fixture(scope="module")
def hub() -> Iterator[GreenHub]:
    hub = GreenHub()
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def server() -> Iterator[EslServer]:
    with EslServer() as server:
        yield server


def create(leg: str, **more: str) -> bytes:
    event = {"Event-Name": "CHANNEL_CREATE", "Unique-ID": leg, "Channel-Call-UUID": leg, **more}
    return frame("text/event-json", msgspec.json.encode(event))


async def test_the_dialplan_is_asked_when_it_stays_quiet(hub: GreenHub, server: EslServer) -> None:
    driver = FreeSwitchDriver(hub, server.host, server.port, "secret")
    await driver.connect()
    watch = Watcher(driver)
    server.answers["uuid_getvar u-1 pbxctl_placement"] = "pl-7"
    claim = {"variable_sip_h_X-Pbxctl-Placement": "pl-stolen"}
    server.push(create("u-1", **claim) + create("u-2", **claim))
    await watch.until(lambda: len(watch.started()) == 2)
    assert {(e.pbx_id, e.placement) for e in watch.started()} == {("u-1", "pl-7"), ("u-2", "")}
    await watch.stop()
    await driver.close()


async def test_truth_asks_each_leg_that_list_and_events_differ_on(
    hub: GreenHub, server: EslServer
) -> None:
    driver = FreeSwitchDriver(hub, server.host, server.port, "secret")
    await driver.connect()
    watch = Watcher(driver)
    server.push(create("known") + create("ended") + create("young"))
    await watch.until(lambda: len(watch.started()) == 3)
    rows = [
        {"uuid": "known"},
        {"uuid": "stale"},  # the list is late: the channel is no more
        {"uuid": "missed", "callstate": "ACTIVE", "cid_num": "1", "dest": "2"},
        {"uuid": "b-leg", "callstate": "ACTIVE"},
        {"uuid": "bad id\n"},
    ]
    server.answers["show"] = msgspec.json.encode({"row_count": 5, "rows": rows}).decode()
    server.answers["uuid_exists young"] = "true"
    server.answers["uuid_getvar missed call_uuid"] = "_undef_"
    server.answers["uuid_getvar missed pbxctl_placement"] = "pl-8"
    server.answers["uuid_getvar b-leg call_uuid"] = "known"
    server.answers["uuid_getvar b-leg pbxctl_placement"] = "_undef_"
    truth = {call.pbx_id: call for call in await driver.truth()}
    assert set(truth) == {"known", "young", "missed"}
    assert (truth["known"].legs, truth["missed"].placement) == (2, "pl-8")
    assert truth["missed"].answered
    await watch.until(lambda: [e.pbx_id for e in watch.ended_calls()] == ["ended"])
    assert CallStarted("missed", "pl-8", "1", "2") in watch.events
    await watch.stop()
    await driver.close()


async def test_a_drain_without_effect_is_refused(hub: GreenHub, server: EslServer) -> None:
    server.answers |= {"fsctl pause inbound": "+OK\n", "fsctl pause_check inbound": "false"}
    driver = FreeSwitchDriver(hub, server.host, server.port, "secret")
    await driver.connect()
    with pytest.raises(CommandRefused):
        await driver.drain()
    await driver.close()


async def test_one_link_in_trouble_does_not_slow_another(hub: GreenHub) -> None:
    with EslServer() as frozen, EslServer() as well:
        bad = FreeSwitchDriver(hub, frozen.host, frozen.port, "secret")
        good = FreeSwitchDriver(hub, well.host, well.port, "secret")
        await bad.connect()
        await good.connect()
        frozen.frozen = True
        stuck = [asyncio.create_task(bad.truth()) for _ in range(20)]
        started = time.monotonic()
        for _ in range(20):
            assert list(await good.truth()) == []
        assert time.monotonic() - started < 1
        await bad.close()
        done = await asyncio.gather(*stuck, return_exceptions=True)
        assert all(isinstance(each, LinkLost) for each in done)
        await good.close()


async def test_a_slow_reader_loses_the_oldest_and_is_told() -> None:
    queue = EventQueue(asyncio.get_running_loop(), cap=10)
    calls = [CallStarted(str(i)) for i in range(25)]

    def flood() -> None:
        for call in calls:
            queue.put([call])

    await asyncio.to_thread(flood)
    batch = list(await queue.take())
    assert isinstance(batch[0], EventsLost) and batch[0].count == 15
    assert batch[1:] == calls[15:]
    queue.put(calls[:1])
    queue.end(LinkLost("gone"))
    assert list(await queue.take()) == calls[:1]
    for _ in range(2):
        with pytest.raises(LinkLost):
            await queue.take()


async def test_a_stopped_hub_is_a_lost_link(server: EslServer) -> None:
    hub = GreenHub()
    hub.start()
    driver = FreeSwitchDriver(hub, server.host, server.port, "secret")
    await driver.connect()
    hub.stop()
    hub.stop()
    with pytest.raises(LinkLost):
        await asyncio.wait_for(driver.truth(), 2)
    await asyncio.wait_for(driver.close(), 2)


async def test_commands_from_many_tasks_get_their_own_answers(
    hub: GreenHub, server: EslServer
) -> None:
    driver = FreeSwitchDriver(hub, server.host, server.port, "secret")
    await driver.connect()
    legs = [f"leg-{i}" for i in range(200)]
    for leg in legs[::2]:
        server.answers[f"uuid_kill {leg} 16"] = "+OK\n"
    killed = await asyncio.gather(*(driver.hangup(leg) for leg in legs))
    assert list(killed) == [i % 2 == 0 for i in range(200)]
    await driver.close()


def test_originate_is_written_as_freeswitch_reads_it() -> None:
    assert text.originate(GOOD, "u-1") == (
        "originate {origination_uuid=u-1,pbxctl_placement=pl-1,originate_timeout=30,"
        "origination_caller_id_number=+4930123}sofia/trunk/100@192.0.2.1:5060 echo XML services"
    )
    bare = msgspec.structs.replace(GOOD, caller="", placement="")
    assert "caller_id" not in text.originate(bare, "u-1")
    v6 = msgspec.structs.replace(GOOD, endpoint="sofia/trunk/sip:100@[2001:db8::1]:5061")
    assert "[2001:db8::1]:5061 echo" in text.originate(v6, "u-1")


HOSTILE = ["a,b=c", "a}b", "{a=b}x", "[a=b]x", "a'b", "a|b", "a b", "a\nb", "${system(id)}", "a\0"]


@pytest.mark.parametrize("bad", [*HOSTILE, "\u0661", "^^:a", "<x>", "&park", "x" * 300])
@pytest.mark.parametrize("place", ["endpoint", "context", "exten", "placement", "caller"])
def test_nothing_that_freeswitch_acts_on_goes_out(place: str, bad: str) -> None:
    for value in (bad, "100" + bad):
        with pytest.raises(UsageError):
            text.originate(msgspec.structs.replace(GOOD, **{place: value}), "u-1")


@pytest.mark.parametrize(
    "endpoint", ["sofia/a/1:_:sofia/b/2", "user", "", "sofia/t/[::1],sofia/u/2", "sofia/t/1@[::1]x"]
)
def test_one_endpoint_only(endpoint: str) -> None:
    with pytest.raises(UsageError):
        text.originate(msgspec.structs.replace(GOOD, endpoint=endpoint), "u-1")


def test_reload_knows_the_profiles_that_run() -> None:
    status = (
        "   internal\tprofile\tsip:a@127.0.0.1:5060\tRUNNING (0)\n"
        "   x\talias\tinternal\tALIASED\n   trunk\tprofile\tsip:b@127.0.0.1:5080\tRUNNING (2)\n"
    )
    rescan = ["sofia profile internal rescan", "sofia profile trunk rescan"]
    assert text.reload("sofia", status) == ["reloadxml", *rescan]
    assert text.reload("sofia/trunk", status) == ["reloadxml", rescan[1]]
    assert text.reload("acl", "") == ["reloadacl"]
    for bad in ("sofia/x", "mod_sofia", "sofia/trunk\n", "sofia/a b", ""):
        with pytest.raises(UsageError):
            text.reload(bad, status)


def test_facts() -> None:
    assert text.facts(STATUS) == NodeFacts(Kind.FREESWITCH, "1.11.1", 3723.182, 50, 100)
    with pytest.raises(LinkLost):
        text.facts("-ERR\n")


async def test_silence_is_measured(hub: GreenHub, server: EslServer) -> None:
    driver = FreeSwitchDriver(hub, server.host, server.port, "secret")
    await driver.connect()
    server.frozen = True
    await until(lambda: driver.silence_s() > 1, 3)
    server.thaw()
    await until(lambda: driver.silence_s() < 0.3, 3)
    assert list(await driver.truth()) == []  # the replies kept back are nobody's
    await driver.close()
