"""Real calls on real PBXs, recorded, sealed while they are on, and opened with the vault's key."""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.vault.bodies import Bodies
from controller.vault.body import CHUNK
from controller.vault.store import open_store
from controller.vault.wire import Outcome
from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone import G722, Outgoing, Phone
from tests.lab.recorded import NUMBERS, RecordingFleet, alike_share, heard_share, linear
from tests.lab.sipp import _ulaw_byte, speech_file, ulaw_of
from tests.lab.test_operator import answer, calls_of, pbxctl
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]

UNRECORDED = {"prefix": "96", "service": "echo"}
TONES = Path(__file__).parents[1] / "data" / "recordings" / "440-and-5000-hz.g722"
RULES = [{"name": "all-echo", "prefix": "95", "service": "echo", "retention_days": 30}]


@dataclass
class World:
    lab: Lab
    fleet: RecordingFleet
    node: Asterisk | FreeSwitch
    phone: Phone
    wide: Phone
    rate_hz: int
    talking: Outgoing | None = None


def tone(seconds: float, hz: float = 440.0) -> bytes:
    samples = (
        int(9000 * math.sin(2 * math.pi * hz * i / 8000)) for i in range(int(8000 * seconds))
    )
    return bytes(_ulaw_byte(sample) for sample in samples)


@pytest.fixture(
    scope="module",
    params=[
        "asterisk",
        "asterisk at 8 kHz",
        pytest.param("freeswitch", marks=pytest.mark.freeswitch),
    ],
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    kind, _, rate = request.param.partition(" at ")
    asked = {"rules": RULES} | ({"rate_hz": 8000} if rate else {})
    with Lab() as lab, Phone(lab.address()) as phone, Phone(lab.address(), G722) as wide:
        node = lab.asterisk("n") if kind == "asterisk" else lab.freeswitch("n")
        with RecordingFleet(
            lab,
            {node: "east"},
            phone.sip,
            wide.sip,
            numbers=[*NUMBERS, UNRECORDED],
            recordings=asked,
        ) as fleet:
            fleet.start_all()
            config = fleet.config
            assert config.recordings
            rate_hz = config.recordings.rate_on(config.nodes["n"].kind)
            yield World(lab, fleet, node, phone, wide, rate_hz)


def test_a_call_is_at_the_vault_as_it_was_heard(world: World) -> None:
    speech = ulaw_of(speech_file(world.lab.run.root))[: 8000 * 4]
    told = tone(1.0) + speech
    call = world.phone.call(world.node.sip, "9500")
    assert call.code == 200
    call.say(told)
    (recording,) = world.fleet.recordings()
    so_far = world.fleet.taken(recording)
    assert so_far.end is None
    assert so_far.chunks >= 4, "it is sealed while the call is on"
    call.hang_up()
    (taken,) = world.fleet.ended()
    # a busy machine costs a PBX some frames; of another call's audio the share would be 0
    step, share = world.rate_hz // 8000, heard_share if world.rate_hz == 8000 else alike_share
    assert share(linear(told), taken.left[::step]) > 0.85
    assert share(linear(told), taken.right[::step]) > 0.8, "the echo, on the other side"
    assert taken.end
    assert taken.end.outcome is Outcome.COMPLETE, taken.end.reason
    assert taken.end.call_ms
    assert abs(len(taken.left) * 1000 / world.rate_hz - taken.end.call_ms) < 700
    assert (taken.header.rate_hz, taken.header.channels) == (world.rate_hz, 2)
    assert taken.particulars.callee == "9500"
    assert taken.particulars.rule == "all-echo"
    assert taken.particulars.retention_days == 30
    until(lambda: not list((world.fleet.tmpfs / "n").iterdir()), 3, "nothing is left in the tmpfs")


def test_a_wideband_call_is_recorded_as_it_was_heard(world: World) -> None:
    """Asterisk's own interleaving plays it at half the speed, with gaps."""
    before = set(world.fleet.recordings())
    call = world.wide.call(world.node.sip, "9500")
    if call.code == 488 and isinstance(world.node, FreeSwitch):
        pytest.skip("this FreeSWITCH has no G.722: mod_spandsp")
    assert (call.code, "RTP/AVP 9" in call.response) == (200, True)
    call.say(TONES.read_bytes() * 3)
    call.hang_up()
    (new,) = until(lambda: set(world.fleet.recordings()) - before, 5, "it has begun")
    until(lambda: world.fleet.taken(new).end, 10, "its end")
    taken = world.fleet.taken(new)
    assert strength(taken.left, 440, world.rate_hz, 0.5) > 2.2
    assert strength(taken.right, 440, world.rate_hz, 0.5) > 2.0
    if world.rate_hz == 16_000:
        assert strength(taken.left, 5000, world.rate_hz, 0.2) > 2.2, "what a narrow call has not"


def test_a_long_call_id_keeps_no_call_from_being_recorded(world: World) -> None:
    before = set(world.fleet.recordings())
    call = world.phone.call(world.node.sip, "9500", call_id="c" + "!" * 3500)
    assert call.code == 200
    call.say(tone(1.0))
    call.hang_up()
    until(lambda: set(world.fleet.recordings()) - before, 5, "it has begun")


#: one pass of the agent, the way to the vault and its sync; the rest is for a busy machine
ON_ITS_WAY_S = 0.35


def test_the_vault_is_never_far_behind(world: World) -> None:
    """What the vault has not at a moment is what is lost if the machine dies at that moment."""
    before = set(world.fleet.recordings())
    call = world.phone.call(world.node.sip, "9500")
    assert call.code == 200
    talk = threading.Thread(target=call.say, args=(tone(10.0),))
    bodies = Bodies(open_store(world.fleet.config))
    behind: list[float] = []
    talk.start()
    began_s = time.monotonic()
    while talk.is_alive():
        said_s = time.monotonic() - began_s
        new = set(world.fleet.recordings()) - before
        growing = bodies.growing(new.pop()) if new else None
        if said_s > 2:  # the first comes with a connection and a folder of its own
            behind.append(said_s - (growing.next if growing else 0) * CHUNK / (4 * world.rate_hz))
        time.sleep(0.01)
    call.hang_up()
    print(f"behind by {max(behind):.2f} s at most, {sum(behind) / len(behind):.2f} s in the mean")
    held_s = 0.512  # the filling of a chunk
    if isinstance(world.node, Asterisk):  # what it holds back of a mono file, at twice the rate
        held_s = {16_000: 0.512, 8000: 2.048}[world.rate_hz]
    assert max(behind) < held_s + ON_ITS_WAY_S


@pytest.fixture
def started(world: World) -> Iterator[str]:
    """A call that no rule records, as its key."""
    if "gate" not in world.fleet.roles:
        world.fleet.start("gate")
        until(lambda: pbxctl(world.fleet, "nodes", "list").returncode == 0, 10, "the gate answers")
    call = world.phone.call(world.node.sip, "9600")
    assert call.code == 200
    (key,) = until(
        lambda: [c["key"] for c in calls_of(world.fleet) if c["callee"] == "9600"], 5, "the call"
    )
    world.talking = call
    yield key
    call.hang_up()


def test_a_person_starts_pauses_resumes_and_stops(world: World, started: str) -> None:
    before = set(world.fleet.recordings())
    call, fleet = world.talking, world.fleet
    assert call
    refused = pbxctl(fleet, "recordings", "pause", started)
    assert (refused.returncode, "not being recorded" in refused.stderr) == (1, True)
    done = answer(fleet, "recordings", "start", started, "--reason", "complaint 7", "--yes")
    assert done["state"] == "done", done
    call.say(tone(1.5, 440))
    assert answer(fleet, "recordings", "pause", started)["state"] == "done"
    call.say(tone(1.5, 620))
    assert answer(fleet, "recordings", "resume", started)["state"] == "done"
    call.say(tone(1.5, 980))
    assert answer(fleet, "recordings", "stop", started, "--yes")["state"] == "done"
    call.say(tone(1.0, 1500))

    def over() -> bool:
        (new,) = set(fleet.recordings()) - before
        return fleet.taken(new).end is not None

    until(over, 10, "the recording has ended, the call has not")
    taken = fleet.taken(done["recording"])
    assert taken.end
    assert taken.end.outcome is Outcome.COMPLETE, taken.end.reason
    assert taken.particulars.reason == "complaint 7"
    left = taken.left[:: world.rate_hz // 8000]
    heard = {hz: strength(left, hz) for hz in (440, 620, 980, 1500)}
    assert heard[440] > 0.8, heard
    assert heard[980] > 0.8, heard
    # what was said between the order and its effect is heard
    assert heard[620] < 0.5, heard
    assert heard[1500] < 0.5, heard
    silent = longest_silence_s(left)
    assert silent > 1.0, f"{silent} s of silence for the pause"
    assert '"what":"call.recording"' in fleet.log("gate")
    assert '"verb":"pause"' in fleet.log("gate")


def strength(samples: array[int], hz: float, rate_hz: int = 8000, share: float = 0.8) -> float:
    """Seconds of the tone, by 20 ms frames of whose energy it has that share (Goertzel)."""
    found, size = 0, rate_hz // 50
    for start in range(0, len(samples) - size, size):
        frame = samples[start : start + size]
        turn = 2 * math.pi * hz / rate_hz
        real = sum(s * math.cos(turn * i) for i, s in enumerate(frame))
        imaginary = sum(s * math.sin(turn * i) for i, s in enumerate(frame))
        energy = sum(s * s for s in frame)
        found += energy > size * 1e6 and (real**2 + imaginary**2) * 2 / size > share * energy
    return found * 0.02


def longest_silence_s(samples: array[int]) -> float:
    longest = run = 0
    for start in range(0, len(samples) - 160, 160):
        quiet = max(map(abs, samples[start : start + 160])) < 16
        run = run + 1 if quiet else 0
        longest = max(longest, run)
    return longest * 0.02
