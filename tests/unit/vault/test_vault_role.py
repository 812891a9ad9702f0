"""A vault in its own process: what agents bring, what people may, and what kill -9 leaves."""

from __future__ import annotations

import random
import threading
import time
import wave
from collections.abc import Iterator
from http.client import HTTPException
from io import BytesIO
from pathlib import Path

import pytest

from controller.api.client import Gate
from controller.api.recording_shapes import (
    EraseAsk,
    HoldAsk,
    PersonAsk,
    Reads,
    RecordingAction,
    RecordingDetail,
    Recordings,
    RotateAsk,
    Rotated,
    VaultWork,
    Verified,
)
from controller.errors import CommandRefused, NotFound, Refused, UsageError
from controller.vault.erasure import verify
from controller.vault.found import Found
from controller.vault.header import Particulars
from controller.vault.wire import Frame, State
from tests.sealed import Recording, plain, tone
from tests.vault_server import VaultServer

DEATHS = 3


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    with VaultServer(tmp_path_factory.mktemp("v")) as server:
        yield server


def heard(gate: Gate, recording: str, **piece: str) -> bytes:
    with gate.stream("recordings", recording, "audio", **piece) as (size, pieces):
        whole = b"".join(pieces)
    assert len(whole) == size
    with wave.open(BytesIO(whole)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 8000, 2)
        return bytes(file.readframes(file.getnframes()))


def test_what_was_recorded_is_heard_again_from_any_place(vault: VaultServer) -> None:
    made = vault.recorded(vault.agent("n1").sealed(tone(20)))
    anna = vault.person("anna")
    assert heard(anna, made.id) == made.plain
    assert heard(anna, made.id, from_ms="7250", to_ms="11000") == made.plain[232_000:352_000]
    assert heard(anna, made.id, from_ms="19999", to_ms="99999") == made.plain[-32:]
    assert heard(anna, made.id, from_ms="50000") == b""


def test_a_recording_is_heard_while_it_grows(vault: VaultServer) -> None:
    agent = vault.agent("n1")
    made = agent.sealed(plain(4.5))
    agent.say(made.begin(), made.some(0, 3))
    vault.until_shown(made.id, "growing")
    assert heard(vault.person("anna"), made.id) == made.plain[: 3 << 14]


def test_roles_decide_who_may_what(vault: VaultServer) -> None:
    made = vault.recorded(vault.agent("n1").sealed(tone(1)))
    for name in ("olga", "carl", "none"):
        with pytest.raises(CommandRefused, match="may not: listen"):
            heard(vault.person(name), made.id)
    for name in ("olga", "anna", "none"):
        with pytest.raises(CommandRefused, match="may not: erase"):
            vault.person(name).post(
                RecordingAction, "recordings", made.id, "erase", body=EraseAsk("why")
            )
    with pytest.raises(CommandRefused, match="may not: list"):
        vault.person("none").get(Recordings, "recordings")
    masked = vault.person("olga").get(RecordingDetail, "recordings", made.id).recording
    clear = vault.person("anna").get(RecordingDetail, "recordings", made.id).recording
    assert (masked.caller, clear.caller) == ("*****111", "+4930111")


def test_every_read_is_in_the_log_before_its_first_byte(vault: VaultServer) -> None:
    made = vault.recorded(vault.agent("n1").sealed(tone(1)))
    heard(vault.person("anna"), made.id, from_ms="500")
    with pytest.raises(CommandRefused):
        heard(vault.person("olga"), made.id)
    seen = vault.person("anna").get(Reads, "reads", recording=made.id).reads
    told = [(r.who, r.roles, r.action, r.address) for r in seen if r.action.startswith("listen")]
    assert told == [
        ("cert:olga", "operator", "listen refused", "127.0.0.1"),
        ("cert:anna", "auditor", "listen", "127.0.0.1"),
    ]
    assert '"from_ms":500' in next(r.detail for r in seen if r.action == "listen")


@pytest.mark.parametrize("who", [("driver", "control"), ("k1", "sip"), ("driver_probe", "sip")])
def test_only_a_node_may_write(vault: VaultServer, who: tuple[str, str]) -> None:
    made = Recording(plain(1))
    try:
        status, body = vault.agent(*who).ask("POST", b"\x90")
    except OSError:
        return  # refused in the handshake: an authority that is not asked
    assert (status, b"is no node" in body) == (409, True)
    assert made.id not in str(vault.person("olga").get(Recordings, "recordings"))


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"\xc1", 400), (b"\x91\xc0", 400), (bytes(17 << 20), 413)]
)
def test_hostile_bodies_get_a_clear_error(vault: VaultServer, body: bytes, status: int) -> None:
    told, answer = vault.agent("n1").ask("POST", body)
    assert (told, b"UsageError" in answer) == (status, True)
    assert vault.agent("n1").key().key_id


def test_filters_find_a_call_a_number_a_node_and_a_time(vault: VaultServer) -> None:
    agent = vault.agent("n2")
    said = Particulars("call-77", "+49 30 777", "95077", "rule-7", 30)
    started_us = time.time_ns() // 1000 - 86_400_000_000
    made = vault.recorded(agent.sealed(tone(1), node="n2", particulars=said, started_us=started_us))
    started_ms = started_us // 1000
    olga = vault.person("olga")
    for query in (
        {"call": "call-77"},
        {"number": "+4930777"},
        {"number": "95077"},
        {"node": "n2", "rule": "rule-7"},
        {"from_ms": str(started_ms), "until_ms": str(started_ms + 1)},
    ):
        found = olga.get(Recordings, "recordings", **query).recordings
        assert [r.recording for r in found] == [made.id], query
    for query in ({"call": "call-7"}, {"number": "777"}, {"until_ms": "5"}, {"held": "1"}):
        assert olga.get(Recordings, "recordings", **query).recordings == []
    with pytest.raises(UsageError, match="no state"):
        olga.get(Recordings, "recordings", state="gone")


def test_pages_have_every_recording_once(vault: VaultServer) -> None:
    agent = vault.agent("n1")
    said = Particulars("many", "1", "2", "r", 1)
    made = [agent.sealed(tone(0.1), particulars=said) for _ in range(5)]
    for one in made:
        agent.say(*one.frames())
    for one in made:
        vault.until_shown(one.id, "complete")
    found, before = [], ""
    while True:
        page = vault.person("olga").get(
            Recordings,
            "recordings",
            call="many",
            limit="2",
            **({"before": before} if before else {}),
        )
        found += [r.recording for r in page.recordings]
        before = page.next
        if not before:
            break
    assert sorted(found) == sorted(one.id for one in made)


def test_a_hold_beats_erasure_and_erasure_is_signed(vault: VaultServer) -> None:
    made = vault.recorded(vault.agent("n1").sealed(tone(1)))
    carl = vault.person("carl")
    act = ("recordings", made.id)
    held = carl.post(RecordingAction, *act, "hold", body=HoldAsk("case 1"))
    assert (held.state, held.holds) == ("complete", 1)
    with pytest.raises(Refused, match="legal hold"):
        carl.post(RecordingAction, *act, "erase", body=EraseAsk("asked to"))
    carl.post(RecordingAction, *act, "hold", body=HoldAsk(lift=True))
    carl.post(RecordingAction, *act, "erase", body=EraseAsk("asked to", dry_run=True))
    assert heard(vault.person("anna"), made.id) == made.plain
    done = carl.post(RecordingAction, *act, "erase", body=EraseAsk("asked to"))
    assert done.state == "erased"
    with pytest.raises(NotFound, match="nobody can open it"):
        heard(vault.person("anna"), made.id)
    shown = carl.get(RecordingDetail, *act)
    assert shown.erasure is not None
    said = verify(
        bytes.fromhex(shown.erasure.public_key),
        shown.erasure.statement.encode(),
        bytes.fromhex(shown.erasure.signature),
    )
    assert (said.recording, said.reason) == (made.id, "cert:carl: asked to")
    assert (shown.recording.caller, shown.recording.call) == ("", "")
    with pytest.raises(Refused, match="nothing is left"):
        carl.post(RecordingAction, *act, "hold", body=HoldAsk("too late"))
    assert carl.post(Recordings, "person", body=PersonAsk("+4930111")).recordings is not None


def test_a_damaged_body_is_told_by_segment_and_never_heard(vault: VaultServer) -> None:
    made = vault.recorded(vault.agent("n1").sealed(plain(300.5)))
    body = vault.folder / "state/vault/store/bodies" / made.id[:2] / made.id
    raw = bytearray(body.read_bytes())
    raw[56 + 200 * 16400 + 7] ^= 1
    body.write_bytes(raw)
    found = vault.person("anna").post(Verified, "recordings", made.id, "verify", body=HoldAsk())
    assert (found.intact, found.bad, found.chunks) == (False, [200], 301)
    with pytest.raises(Exception, match="short"):
        heard(vault.person("anna"), made.id)
    ms = (200 << 14) // 32
    assert heard(vault.person("anna"), made.id, to_ms=str(ms)) == made.plain[: 200 << 14]


def test_nothing_that_was_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    """Deaths at random moments while three recordings come in at once."""
    rng = random.Random(4)
    with VaultServer(tmp_path) as vault:
        _die_often(vault, rng)


def _die_often(vault: VaultServer, rng: random.Random) -> None:
    agent = vault.agent("n1")
    made = [agent.sealed(plain(rng.uniform(20, 40))) for _ in range(3)]
    acked = dict.fromkeys((one.id for one in made), 0)
    ended: set[str] = set()
    deaths = 0
    while len(ended) < len(made) or deaths < DEATHS:
        batch: list[Frame] = []
        for one in made:
            first = acked[one.id]
            batch += [one.begin(), one.some(first, rng.randint(1, 3))]
            if first + 3 >= len(one.chunks):
                batch += [one.some(first, 99), one.end()]
        killer = threading.Timer(rng.uniform(0, 0.03), vault.kill)
        if deaths < DEATHS and rng.random() < 0.5:
            deaths += 1
            killer.start()
        try:
            acks = vault.agent("n1").say(*batch)
        except (OSError, HTTPException):
            acks = []
        if killer.ident:
            killer.join()
        for ack in acks:
            assert ack.next >= acked[ack.recording], "an acknowledged chunk is gone"
            assert ack.state is not State.REFUSED, ack
            acked[ack.recording] = ack.next
            ended |= {ack.recording} if ack.state is State.ENDED else set()
        if not vault.running:
            vault.start()
    for one in made:
        vault.until_shown(one.id, "complete", 20)
        assert heard(vault.person("anna"), one.id) == one.plain


def test_the_shapes_need_no_sql_for_a_command_to_start() -> None:
    import subprocess
    import sys

    code = "import sys, controller.cli.recordings, controller.cli.vault; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert not loaded & {"sqlalchemy", "aiohttp", "cryptography", "obstore"}


def test_how_far_a_check_and_a_rotation_have_come_is_told(vault: VaultServer) -> None:
    for _ in range(3):
        vault.recorded(vault.agent("n1").sealed(tone(1)))
    seen: dict[str, VaultWork] = {}
    over = threading.Event()

    def works() -> None:
        carl = vault.person("carl")
        while not over.is_set():
            carl.post(Found, "vault", "check", body=RotateAsk())
            carl.post(Rotated, "vault", "rotate", body=RotateAsk(pair=False))

    thread = threading.Thread(target=works)
    thread.start()
    olga, deadline = vault.person("olga"), time.monotonic() + 20
    try:
        while len(seen) < 2 and time.monotonic() < deadline:
            at = olga.get(VaultWork, "vault", "work")
            if at.work:
                seen[at.work] = at
    finally:
        over.set()
        thread.join()
    assert set(seen) == {"check", "rotate"}
    assert all(0 < at.done <= at.of for at in seen.values())
    assert olga.get(VaultWork, "vault", "work") == VaultWork("", 0, 0)
