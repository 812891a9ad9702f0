"""Agent and Asterisk as users of their own, as packages run them: neither is root, nor the other.

The PBX writes the files that the agent made for it, and that is all it can do with them.
"""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.vault.wire import Outcome
from tests.lab.asterisk import Asterisk
from tests.lab.lab import Lab
from tests.lab.phone import Phone
from tests.lab.recorded import RecordingFleet, alike_share, linear
from tests.lab.rendered import put_files
from tests.lab.sipp import speech_file, ulaw_of
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]

AGENT = pwd.getpwnam("nobody")
#: a group that this machine and the lab root have alike; the agent is in it, the PBX runs with it
GROUP = grp.getgrnam("games")


@dataclass
class World:
    lab: Lab
    fleet: RecordingFleet
    node: Asterisk
    phone: Phone


@pytest.fixture
def world() -> Iterator[World]:
    with Lab() as lab, Phone(lab.address()) as phone:
        node = lab.asterisk("n")
        node.runs_as = f"asterisk:{GROUP.gr_name}"
        with RecordingFleet(
            lab,
            {node: "east"},
            phone.sip,
            recordings={"group": GROUP.gr_name, "unable": "refuse"},
            options=f"noswap,uid={AGENT.pw_uid},gid={AGENT.pw_gid}",
        ) as fleet:
            put_files(fleet.config, node)
            give(node.folder, pbx_uid(lab), GROUP.gr_gid)
            give(fleet.folder, AGENT.pw_uid, AGENT.pw_gid)
            node.restart()
            fleet.start_vault()
            fleet.start("driver")
            fleet.start("steward")
            fleet.start("agent", user=AGENT.pw_uid, groups=[GROUP.gr_gid])
            fleet.until_active()
            until(fleet.able, 10, "the agent can record")
            yield World(lab, fleet, node, phone)


def pbx_uid(lab: Lab) -> int:
    lines = (lab.run.root / "etc" / "passwd").read_text().splitlines()
    return next(int(line.split(":")[2]) for line in lines if line.startswith("asterisk:"))


def give(folder: Path, user: int, group: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)


def as_user(uid: int, gid: int, script: str) -> str:
    """What it prints, errors among it."""
    done = subprocess.run(
        ["sh", "-c", script], user=uid, group=gid, extra_groups=[], capture_output=True, text=True
    )
    return done.stdout + done.stderr


def test_each_may_do_its_own_part_and_no_more(world: World) -> None:
    folder, pbx = world.fleet.tmpfs / "n", pbx_uid(world.lab)
    status = Path(f"/proc/{world.node.pid}/status").read_text()
    assert f"Uid:\t{pbx}\t{pbx}" in status, "Asterisk is not root"
    assert (
        f"Uid:\t{AGENT.pw_uid}\t"
        in Path(f"/proc/{world.fleet.roles['agent'].pid}/status").read_text()
    )
    told = ulaw_of(speech_file(world.lab.run.root))[: 8000 * 4]
    call = world.phone.call(world.node.sip, "9500")
    assert call.code == 200
    call.say(told)
    (recording,) = world.fleet.recordings()
    audio, memo = folder / f"{recording}-l.sln32", folder / f"{recording}.memo"
    facts = audio.stat()
    assert (facts.st_uid, facts.st_gid) == (AGENT.pw_uid, GROUP.gr_gid)
    assert facts.st_mode & 0o777 == 0o620
    assert memo.stat().st_mode & 0o777 == 0o600
    for tries, who in (
        (f"cat {audio}", "read audio"),
        (f"cat {memo}", "read the key"),
        (f"ls {folder}", "list"),
        (f"touch {folder}/{'a' * 32}.raw", "make"),
        (f"rm -f {audio}", "remove"),
        (f"mv {audio} {folder}/x", "rename"),
        (f"ls {world.fleet.config.state_path}", "see the spool"),
    ):
        said = as_user(pbx, GROUP.gr_gid, tries)
        assert "Permission denied" in said or "cannot" in said, f"the PBX may {who}: {said!r}"
    stranger = as_user(2, 2, f"echo x >> {audio}; ls {folder}")
    assert stranger.count("Permission denied") == 2, stranger
    call.hang_up()
    (taken,) = world.fleet.ended()
    assert taken.end
    assert taken.end.outcome is Outcome.COMPLETE, taken.end.reason
    assert alike_share(linear(told), taken.left[::2]) > 0.85
    until(lambda: not list(folder.iterdir()), 5, "the agent has removed what the PBX wrote")


def test_a_group_that_the_agent_is_not_in_is_told(world: World) -> None:
    world.fleet.stop("agent")
    world.fleet.start("agent", user=AGENT.pw_uid, groups=[])
    until(world.fleet.able, 10, "it listens")
    assert world.phone.call(world.node.sip, "9500").code == 503
    alarms = [a.reason for a in world.fleet.ask(lambda door: door.alarms())]
    assert any("Operation not permitted" in words for words in alarms), alarms
    assert not list((world.fleet.tmpfs / "n").iterdir()), "no half of a recording is left"
