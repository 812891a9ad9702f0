"""Two hundred kills of PBX, agent and vault, while calls are recorded.

The witness is the tmpfs itself: every recording's file is opened when it appears, and what the PBX
wrote into it, to the last byte, is what the vault has in the end: nothing lost, nothing twice.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from controller.pbx.recorded_files import SIDES, STEREO
from controller.vault.bodies import Bodies
from controller.vault.store import open_store
from controller.vault.wire import Outcome
from tests.lab.asterisk import Asterisk
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.phone import Phone
from tests.lab.recorded import RecordingFleet, linear
from tests.lab.rendered import takes
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]

KILLS = 200
WITHIN_S = 200
#: said again and again: no silence, and nothing that is said by chance
CANARY = bytes(random.Random(7).randrange(0x10, 0x70) for _ in range(160))


BEGAN_S = time.time()
AUDIO = (".raw", ".sln32")
LAYOUT = SIDES[16_000]


class Witness(threading.Thread):
    """Holds every recording's files open from their first moment on; `plain` reads them."""

    def __init__(self, folder: Path, stereo: set[str]) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._stereo = stereo
        self._files: dict[str, tuple[int, ...]] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.01):
            for path in self._folder.glob("*/*.memo"):
                if path.stem not in self._files:
                    layout = STEREO if path.parent.name in self._stereo else LAYOUT
                    files = [path.with_name(path.stem + name) for name in layout.names]
                    with contextlib.suppress(FileNotFoundError):
                        self._files[path.stem] = tuple(os.open(f, os.O_RDONLY) for f in files)

    def sides(self) -> dict[str, list[array[int]]]:
        """As the PBX wrote them."""
        return {
            recording: [array("h", os.pread(fd, os.fstat(fd).st_size // 2 * 2, 0)) for fd in fds]
            for recording, fds in self._files.items()
        }

    def plain(self) -> dict[str, bytes]:
        """What the vault is to have: each second sample, left and right in turn."""
        return {recording: both(sides) for recording, sides in self.sides().items()}

    def close(self) -> None:
        self._over.set()
        self.join()
        for fds in self._files.values():
            for fd in fds:
                os.close(fd)


def both(sides: list[array[int]]) -> bytes:
    if len(sides) == 1:
        return sides[0].tobytes()
    frames = max(len(side) // LAYOUT.step for side in sides)
    stereo = array("h", bytes(4 * frames))
    for number, side in enumerate(sides):
        taken = side[: len(side) // LAYOUT.step * LAYOUT.step : LAYOUT.step]
        stereo[number : 2 * len(taken) : 2] = taken
    return stereo.tobytes()


class Talker(threading.Thread):
    """Calls and says the canary, again and again."""

    def __init__(self, phone: Phone, target: str) -> None:
        super().__init__(daemon=True)
        self._phone, self._target = phone, target
        self.over = threading.Event()

    def stop(self) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        chance = random.Random(self._target + self._phone.sip)
        while not self.over.is_set():
            try:
                call = self._phone.call(self._target, "9500", timeout_s=1.5)
            except TimeoutError:
                continue
            if call.code != 200:
                self.over.wait(0.1)
                continue
            until_s = time.monotonic() + chance.uniform(0.5, 5)
            while time.monotonic() < until_s and not self.over.is_set():
                call.say(CANARY * 5)
            call.hang_up()


class Killer(threading.Thread):
    """Kills at random moments, until there were `KILLS` of all killers together."""

    def __init__(
        self,
        name: str,
        deaths: list[str],
        again: Callable[[random.Random], None],
        within_s: float,
    ) -> None:
        super().__init__(daemon=True, name=name)
        self._within_s = within_s
        self._again, self._chance, self._deaths = again, random.Random(name), deaths
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while len(self._deaths) < KILLS:
                time.sleep(self._chance.uniform(0, self._within_s))
                self._again(self._chance)
                self._deaths.append(self.name)
        except BaseException as error:  # of a thread; the test raises it
            self.error = error


def restarted(fleet: RecordingFleet, role: str, address: str, chance: random.Random) -> None:
    """kill -9, and begun again; the next kill may come before it listens."""
    fleet.stop(role, kill=True)
    fleet.start(role)
    if chance.random() < 0.8:
        until(lambda: takes(address), 20, f"{role} listens")


World = tuple[RecordingFleet, list[Asterisk | FreeSwitch], list[Phone]]


@pytest.fixture(
    params=["asterisk", pytest.param("freeswitch", marks=pytest.mark.freeswitch)],
    ids=["two Asterisks", "Asterisk and FreeSWITCH"],
)
def fleet(request: pytest.FixtureRequest) -> Iterator[World]:
    with Lab() as lab, contextlib.ExitStack() as ends:
        phones = [ends.enter_context(Phone(lab.address())) for _ in range(4)]
        second = lab.asterisk("n2") if request.param == "asterisk" else lab.freeswitch("n2")
        nodes: list[Asterisk | FreeSwitch] = [lab.asterisk("n1"), second]
        east: dict[Asterisk | FreeSwitch, str] = dict.fromkeys(nodes, "east")
        with RecordingFleet(lab, east, *(phone.sip for phone in phones)) as fleet:
            fleet.start_all()
            yield fleet, nodes, phones


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_comes_twice(
    fleet: World,
) -> None:
    world, nodes, phones = fleet
    stereo = {node.name for node in nodes if isinstance(node, FreeSwitch)}
    witness = Witness(world.tmpfs, stereo)
    talkers = [Talker(phone, nodes[i % 2].sip) for i, phone in enumerate(phones)]
    for thread in (witness, *talkers):
        thread.start()
    agent = f"{world.config.agent.host}:{world.config.agent.port}"
    deaths: list[str] = []
    killers = [
        Killer("agent", deaths, partial(restarted, world, "agent", agent), 1.5),
        Killer("vault", deaths, partial(restarted, world, "vault", world.vault), 0.5),
        Killer("pbx", deaths, lambda chance: chance.choice(nodes).restart(), 1.5),
    ]
    began_s = time.monotonic()
    for killer in killers:
        killer.start()
    for killer in killers:
        killer.join(max(0.0, began_s + WITHIN_S - time.monotonic()))
    assert [killer.error for killer in killers] == [None] * 3
    assert len(deaths) >= KILLS
    assert min(deaths.count(killer.name) for killer in killers) >= 25, deaths
    pieces = until(lambda: heard(witness), 15, "the canary in what a PBX wrote")
    until(lambda: in_clear([world.tmpfs], pieces), 15, "the search finds what is there")
    assert not in_clear(places(world), pieces)
    for talker in talkers:
        talker.stop()
    spool = world.config.state_path / "agent" / "spool"

    def shipped() -> bool:
        # A PBX that died before it opened its file may leave an empty one for ten minutes.
        audio = [path for path in world.tmpfs.glob("*/*") if path.suffix in AUDIO and size_of(path)]
        sealed = [
            path for path in spool.rglob("*") if path.is_file() and path.parent.name != "open"
        ]
        return not audio and not sealed

    until(shipped, 40, "the node has shipped all it had")
    wrote = {recording: plain for recording, plain in witness.plain().items() if plain}
    witness.close()
    bodies = Bodies(open_store(world.config))
    took = {recording: world.taken(recording) for recording in bodies.all_growing()}
    assert len(took) >= 10, "several recordings, with many kills each"
    assert set(took) == set(wrote)
    for recording, taken in took.items():
        assert taken.plain == wrote[recording], f"{recording} is another at the vault"
        assert taken.end, f"{recording} has no end"
    outcomes = [taken.end.outcome for taken in took.values() if taken.end]
    assert Outcome.COMPLETE in outcomes, "calls that ended in order"
    assert Outcome.PARTIAL in outcomes, "calls that a crash cut off"
    assert not in_clear([*places(world), world.tmpfs], pieces), "nor is anything left afterwards"


def places(world: RecordingFleet) -> list[Path]:
    """All files of PBX, agent, vault and of this run, and Redis' memory as a file among them."""
    assert not swapped(world)
    save_redis(world)
    return [world.lab.run.folder, Path("/var/tmp"), Path("/dev/shm")]


def heard(witness: Witness) -> list[bytes]:
    """Some ms of the canary as it came, decoded, as Asterisk resamples it, and as it is sealed.

    It has the length of a packet, so that it is the same in each, but for the first ones.
    """
    for left, *right in witness.sides().values():
        if right and len(left) > 2 * 32_000:
            wide = left[32_000 : 32_000 + 160]
            narrow = wide[32_000 % LAYOUT.step :: LAYOUT.step]
            told = linear(CANARY)[20:60]
            return [CANARY[20:60], told.tobytes(), wide.tobytes(), narrow.tobytes()]
    return []


def in_clear(folders: list[Path], pieces: list[bytes]) -> list[Path]:
    """Files written since the tests began that hold one of them, alone or on a side of stereo."""
    found = []
    for path in {p for folder in folders for p in folder.rglob("*") if p.is_file()}:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < BEGAN_S:
                continue  # /var/tmp is others' too, and may hold gigabytes
            if holds(path.read_bytes(), pieces):
                found.append(path)
    return found


def holds(data: bytes, pieces: list[bytes]) -> bool:
    if any(piece in data for piece in pieces):
        return True
    for start in (0, 1):
        halves = memoryview(data[start : start + (len(data) - start) // 2 * 2]).cast("h")
        sides = [halves[side::2].tobytes() for side in (0, 1)]
        if any(piece in side for piece in pieces[1:] for side in sides):
            return True
    return False


def swapped(world: RecordingFleet) -> bool:
    status = Path(f"/proc/{world.roles['agent'].pid}/status").read_text()
    return re.search(r"^VmSwap:\s+0 kB$", status, re.M) is None


def save_redis(world: RecordingFleet) -> None:
    client = redis.Redis.from_url(world.config.redis.url or "", username="lab", password="any")
    client.config_set("rdbcompression", "no")
    client.save()
