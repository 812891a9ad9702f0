"""The lab itself: nodes that take real calls, break as told, and leave nothing behind."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import sweep
from tests.lab.asterisk import Asterisk
from tests.lab.lab import Lab
from tests.lab.run import LabUnusable
from tests.lab.sip import answers_options
from tests.lab.until import until

pytestmark = pytest.mark.lab

KAMAILIO = """
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "siputils.so"
request_route {
    if (is_method("OPTIONS")) { sl_send_reply("200", "OK"); exit; }
    if (has_totag()) { loose_route(); t_relay(); exit; }
    record_route();
    $du = TARGET;
    t_relay();
}
"""


@pytest.fixture(scope="module")
def asterisk(shared_lab: Lab) -> Iterator[Asterisk]:
    yield shared_lab.asterisk("lab-test")


def answers(node: Asterisk) -> bool:
    return answers_options(node.address, 5060)


def audio_packets(log: Path) -> tuple[int, int]:
    """RTP packets that the node received and sent in the last call of its log."""
    seen = re.findall(r"rtp received (\d+) sent (\d+)", log.read_text())
    return (int(seen[-1][0]), int(seen[-1][1])) if seen else (0, 0)


@pytest.mark.parametrize("number", ["9196", "9664", "4711"])
def test_a_call_is_answered_and_carries_audio_both_ways(
    shared_lab: Lab, asterisk: Asterisk, number: str
) -> None:
    asterisk.messages.write_text("")
    call = shared_lab.call(asterisk, number, hold_s=0.6)
    assert call.answered
    assert call.completed
    assert call.setup_ms < 1000
    received, sent = until(
        lambda: found if any(found := audio_packets(asterisk.messages)) else None, 2, "audio"
    ) or (0, 0)
    assert received >= 20  # 0.6 s at 20 ms are 30
    assert sent >= 20


def test_a_refusal_and_a_call_nobody_answers_are_told_apart(
    shared_lab: Lab, asterisk: Asterisk
) -> None:
    refused = shared_lab.calls(asterisk, "503", count=3).result()
    assert refused.codes == {503: 3}
    assert (refused.attempted, refused.answered, refused.failed) == (3, 0, 3)
    rung = shared_lab.call(asterisk, "9000", answer_timeout_s=0.5)
    assert rung.code == 0
    assert 450 <= rung.setup_ms < 2000
    until(lambda: "0 active calls" in asterisk.cli("core show calls"), 3, "CANCEL ended the call")


def test_many_calls_at_their_rate(shared_lab: Lab, asterisk: Asterisk) -> None:
    result = shared_lab.calls(asterisk, count=20, rate_per_s=20, hold_s=0.5).result()
    assert (result.answered, result.completed) == (20, 20)
    assert 0 < result.setup_ms(0.5) <= result.setup_ms(0.99) < 1000


def test_the_placement_header_becomes_a_variable(shared_lab: Lab, asterisk: Asterisk) -> None:
    load = shared_lab.calls(asterisk, hold_s=5, headers={"X-Pbxctl-Placement": "p-17"})
    load.wait_answered(1)
    channel = asterisk.cli("core show channels concise").split("!")[0]
    reply = asterisk.ami(f"Action: Getvar\r\nChannel: {channel}\r\nVariable: PBXCTL_PLACEMENT\r\n")
    assert "Value: p-17" in reply
    load.stop()
    asterisk.cli(f"channel request hangup {channel}")


def test_a_bye_from_the_node_is_seen(shared_lab: Lab, asterisk: Asterisk) -> None:
    load = shared_lab.calls(asterisk, hold_s=10)
    load.wait_answered(1)
    asterisk.cli("channel request hangup all")
    (call,) = load.result(5).calls
    assert call.completed
    assert call.hung_up_by_peer


def test_a_full_node_refuses(lab: Lab) -> None:
    node = lab.asterisk("small", calls_max=1)
    load = lab.calls(node, hold_s=10)
    load.wait_answered(1)
    assert not lab.call(node).answered


def test_config_files_can_be_given_and_made_from_the_settings(lab: Lab) -> None:
    refuse = "[trunk]\nexten => _X.,1,Hangup(17)\n"
    busy = lab.asterisk("busy", files={"extensions.conf": refuse})
    assert lab.call(busy).code == 486
    made = lab.asterisk("made", files=lambda s: {"extensions.conf": f"; {s.address}\n{refuse}"})
    assert lab.call(made).code == 486
    assert made.address in (made.folder / "etc" / "extensions.conf").read_text()


def test_kill_and_restart(lab: Lab) -> None:
    node = lab.asterisk("a")
    before = node.pid
    node.kill()
    assert not node.running
    assert not Path(f"/proc/{before}").exists()
    with pytest.raises(ConnectionRefusedError):
        node.ami("Action: Ping\r\n")
    node.restart()
    assert node.pid != before
    assert lab.call(node).answered


def test_a_frozen_node_keeps_its_sockets_and_its_calls_and_says_nothing(lab: Lab) -> None:
    node = lab.asterisk("a")
    load = lab.calls(node, hold_s=2)
    load.wait_answered(1)
    node.freeze()
    assert node.running
    assert not answers(node)
    with pytest.raises(TimeoutError):  # the kernel accepts, nobody reads
        node.ami("Action: Ping\r\n", timeout_s=0.3)
    node.thaw()
    until(lambda: answers(node), 3, "an answer after the thaw")
    assert load.result().completed == 1


def test_a_cut_node_runs_on_and_no_packet_passes(lab: Lab) -> None:
    node, other = lab.asterisk("a"), lab.asterisk("b")
    node.cut()
    assert not answers(node)
    with pytest.raises(TimeoutError):  # dropped, not refused
        node.ami("Action: Ping\r\n", timeout_s=0.3)
    assert node.running
    assert answers(other)
    node.heal()
    assert answers(node)
    node.cut()
    assert not answers(node)


def test_secrets_are_for_root_alone_and_in_no_argument_list(lab: Lab) -> None:
    node = lab.asterisk("a")
    assert (node.folder / "etc" / "manager.conf").stat().st_mode & 0o777 == 0o600
    assert node.secret not in Path(f"/proc/{node.pid}/cmdline").read_text()


def test_redis_starts_empty_and_kamailio_carries_calls(shared_lab: Lab, asterisk: Asterisk) -> None:
    redis = shared_lab.redis("lab-test-redis")
    probe = ["redis-cli", "-s", str(redis.socket), "dbsize"]
    assert subprocess.run(probe, capture_output=True, text=True).stdout.strip() == "0"
    target = f'"sip:{asterisk.sip}"'
    edge = shared_lab.kamailio(KAMAILIO, "lab-test-edge", defines={"TARGET": target})
    call = shared_lab.call(edge)
    assert call.completed
    edge.stop()
    assert not edge.running


@pytest.mark.freeswitch
def test_freeswitch_takes_calls_and_breaks_like_asterisk(lab: Lab) -> None:
    node = lab.freeswitch("f")
    assert lab.call(node, "9196").completed
    assert lab.call(node, "9664").completed
    assert lab.call(node, "503").code == 503
    assert lab.call(node, "9000", answer_timeout_s=0.5).code == 0
    node.freeze()
    with pytest.raises(TimeoutError):
        node.esl("api status", timeout_s=0.3)
    node.thaw()
    until(node.is_ready, 5, "an answer after the thaw")
    node.restart()
    assert lab.call(node).completed


NOBODYS = "folder without its token"


def traces(number: int, folder: Path) -> list[str]:
    """What is left of a run, in words; found by other signs than the lab itself goes by.

    A run that has its number next, in a test beside this one, leaves none that is equal: its
    processes have other ids, its folder another token.
    """
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            words = (process / "cmdline").read_text().replace("\0", " ")
            at = str((process / "cwd").readlink())
            if at.startswith(f"{folder}/") or f"/lab/{number}/" in words:
                left.append(f"process {process.name} {words}")
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
    left += [line for line in tables.splitlines() if line.endswith(sweep.table(number))]
    mounts = Path("/proc/mounts").read_text().splitlines()
    left += [line for line in mounts if str(folder) in line]
    token = folder / sweep.TOKEN
    if folder.exists():
        left.append(f"folder of {token.read_text()}" if token.exists() else NOBODYS)
    return left


def test_a_closed_lab_leaves_nothing() -> None:
    with Lab() as lab:
        lab.asterisk("a").cut()
        lab.redis()
        lab.calls("127.0.0.1:9", hold_s=30)
        daemon = ["sh", "-c", "setsid -f sleep 600; exec sleep 600"]
        lab.program("daemon", daemon, ready=lambda: True)
        number, folder = lab.run.number, lab.run.folder
        before = set(traces(number, folder))
        assert len(before) >= 4
    assert not (before | {NOBODYS}) & set(traces(number, folder))


VICTIM = """
import os, signal, sys
from tests.lab.lab import Lab
lab = Lab()
node = lab.asterisk("a")
node.cut()
node.freeze()
lab.redis()
lab.calls("127.0.0.1:9", hold_s=30)
if sys.argv[1] == "guard too":
    os.kill(lab.run.guard_pid, signal.SIGKILL)
print(lab.run.number, lab.run.folder, flush=True)
signal.pause()
"""


def killed_lab(how: str) -> Callable[[], bool]:
    """Starts a lab in another process and kills that one with -9; true when it left nothing."""
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, how],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert victim.stdout is not None
    number, place = victim.stdout.readline().split(maxsplit=1)
    folder = Path(place.strip())
    before = set(traces(int(number), folder))
    assert len(before) >= 4
    victim.kill()
    victim.wait()
    return lambda: not (before | {NOBODYS}) & set(traces(int(number), folder))


def test_a_lab_killed_by_9_leaves_nothing() -> None:
    until(killed_lab("lab alone"), 5, "the guard has swept")


def test_what_even_the_guard_left_goes_at_the_next_start() -> None:
    # The guard died before its lab, so all that can sweep is a lab that starts: this one, or one
    # of a test beside this one. It takes another number than the dead one had.
    with Lab():
        gone = killed_lab("guard too")
    with Lab():
        until(gone, 5, "the next lab has swept")


def test_two_labs_never_share_a_network() -> None:
    with Lab() as one, Lab() as two:
        assert one.run.number != two.run.number
        assert one.address() != two.address()


def test_a_lab_without_its_root_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PBXCTL_LAB_CACHE", str(tmp_path))
    with pytest.raises(LabUnusable, match="run make setup"):
        Lab()
