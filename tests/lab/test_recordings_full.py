"""Vault away, spool full, tmpfs full: told, refused as the policy says, nothing lost."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from controller.vault.wire import Outcome
from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone import Outgoing, Phone
from tests.lab.recorded import RecordingFleet, heard_share, linear
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]

CALLS = 6
TMPFS_MB = 8
TALK_S = 100
#: noise, in which every frame of a call is to be found once
_CHANCE = random.Random(9)
SPEECH = bytes(_CHANCE.randrange(0x10, 0x70) for _ in range(8000 * TALK_S))


@dataclass
class World:
    fleet: RecordingFleet
    node: Asterisk | FreeSwitch
    phone: Phone
    unable: str


class Talk(threading.Thread):
    """Says SPEECH until told to end."""

    def __init__(self, call: Outgoing) -> None:
        super().__init__(daemon=True)
        self.call, self.over = call, threading.Event()

    def run(self) -> None:
        for start in range(0, len(SPEECH), 16_000):  # FreeSWITCH drops 40 ms where a spurt begins
            if self.over.is_set():
                return
            self.call.say(SPEECH[start : start + 16_000])

    def end(self) -> None:
        self.over.set()
        self.join()
        self.call.hang_up()


@pytest.fixture(
    params=["asterisk refuse", pytest.param("freeswitch go_on", marks=pytest.mark.freeswitch)]
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    kind, unable = request.param.split()
    with Lab() as lab, Phone(lab.address()) as phone:
        node = lab.asterisk("n") if kind == "asterisk" else lab.freeswitch("n")
        # 8 kHz on both, where a frame can be found again sample by sample
        wanted = {"unable": unable, "spool_max_mb": 1, "rate_hz": 8000}
        with RecordingFleet(
            lab, {node: "east"}, phone.sip, recordings=wanted, size_mb=TMPFS_MB
        ) as fleet:
            fleet.start_all()
            yield World(fleet, node, phone, unable)


@pytest.mark.timeout(240)
def test_nothing_is_lost_in_silence(world: World) -> None:
    fleet = world.fleet
    fleet.stop("vault", kill=True)
    talks = [Talk(world.phone.call(world.node.sip, "9500")) for _ in range(CALLS)]
    for talk in talks:
        talk.start()
    until(lambda: told(fleet, "spool_max_mb is 1"), 40, "a person is told that the spool is full")
    assert not told(fleet, "stopped"), "the tmpfs has room yet"
    refused = world.phone.call(world.node.sip, "9500")
    assert refused.code == (503 if world.unable == "refuse" else 200)
    refused.hang_up()
    until(lambda: told(fleet, "the spool is full"), 5, "and of the call that is not recorded")
    until(lambda: told(fleet, "tmpfs is full too"), 90, "a person is told that recordings stop")
    assert not any(talk.call.ended for talk in talks), "the calls themselves go on"
    until(lambda: not growing(fleet), 10, "the PBX records no more")
    assert not told(fleet, "is lost"), "it stopped before the tmpfs was full to the brim"
    fleet.start_vault()
    taken = fleet.ended(CALLS, 60)
    assert not any(talk.call.ended for talk in talks)
    for talk in talks:
        talk.end()
    assert len(taken) == CALLS
    for one in taken:
        assert one.end
        assert one.end.outcome is Outcome.PARTIAL
        assert "stopped, as nothing could be kept" in one.end.reason
        seconds = len(one.left) / 8000
        assert heard_share(linear(SPEECH[: len(one.left)]), one.left) > 0.85, seconds
        # in order and without a hole: what is there was said one after another
        assert seconds > 10
    # not before the calls are over: Asterisk's hangup handler notes the end once more
    until(lambda: not list((fleet.tmpfs / "n").iterdir()), 30, "the tmpfs is empty")
    spool = fleet.config.state_path / "agent" / "spool" / "n"
    until(lambda: not list(spool.glob("0*")), 10, "and so is the spool")
    call = world.phone.call(world.node.sip, "9500")
    assert call.code == 200
    call.say(SPEECH[:16_000])
    call.hang_up()
    after = until(lambda: set(fleet.recordings()) - {t.id for t in taken}, 10, "it is recorded")
    (new,) = after
    until(lambda: fleet.taken(new).end, 15, "and ends")
    end = fleet.taken(new).end
    assert end
    assert end.outcome is Outcome.COMPLETE


def told(fleet: RecordingFleet, words: str) -> bool:
    alarms = fleet.ask(lambda door: door.alarms())
    return any(words in a.reason for a in alarms if a.kind == "recording")


def growing(fleet: RecordingFleet) -> bool:
    """Whether the PBX has any of the files open."""
    files = [str(path) for path in (fleet.tmpfs / "n").glob("*.raw")]
    done = subprocess.run(["fuser", *files], capture_output=True, check=False)
    holders = set(done.stdout.split()) - {str(fleet.roles["agent"].pid).encode()}
    return bool(holders)
