"""What the agent records onto, and what it finds out about files there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from controller.agent import tmpfs
from controller.config_recordings import RecordingsConfig
from controller.doctor.finding import Level
from controller.doctor.recordings import check_swap, check_tmpfs
from controller.render.recordings import mount_unit
from tests.unit.recordings.made import new

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:30 / {point} rw,nosuid - tmpfs tmpfs rw,size=1024k{options}
"""


HEAD = "Filename Type Size Used Priority\n"
SWAP = HEAD + "/dev/sdb2 partition 4194300 0 -2\n"


def written(place: Path, name: str, text: str) -> Path:
    path = place / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("point", "options", "wanted", "swaps", "problem"),
    [
        ("{}", ",noswap", True, SWAP, ""),
        ("{}", "", True, HEAD, "may be swapped out"),
        ("/elsewhere", ",noswap", True, HEAD, "is on ext4"),
        ("{}", "", False, HEAD, ""),
        ("{}", ",noswap", False, SWAP, ""),
        ("{}", "", False, SWAP, "swaps to /dev/sdb2"),
        ("{}", "", False, None, "cannot be read"),
        ("/elsewhere", "", False, HEAD, "is on ext4"),
    ],
)
def test_nothing_but_a_tmpfs_that_is_never_swapped_out_will_do(
    tmp_path: Path, point: str, options: str, wanted: bool, swaps: str | None, problem: str
) -> None:
    text = MOUNTS.format(point=point.format(tmp_path), options=options)
    mounts, listed = written(tmp_path, "mounts", text), tmp_path / "swaps"
    if swaps is not None:
        listed.write_text(swaps)
    found = tmpfs.problem_of(tmp_path, noswap=wanted, mounts=mounts, swaps=listed)
    assert problem in found
    assert bool(found) is bool(problem)
    config = RecordingsConfig(folder=str(tmp_path), noswap=wanted)
    finding = check_tmpfs(config, mounts, listed)
    assert finding.level is (Level.FAIL if problem else Level.OK)
    assert "swapoff" in finding.fix if "swaps to" in problem else "swapoff" not in finding.fix


def test_a_symbolic_link_does_not_fool_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    text = MOUNTS.format(point=tmp_path / "link", options=",noswap")
    found = tmpfs.problem_of(tmp_path / "link", mounts=written(tmp_path, "mounts", text))
    assert "is on ext4" in found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_the_kernels_own_words(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noswap,size=1m", "t", tmp_path], check=True)
    try:
        assert tmpfs.problem_of(tmp_path) == ""
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert "not on a tmpfs" in tmpfs.problem_of(tmp_path) or "swapped" in tmpfs.problem_of(tmp_path)


def test_a_writer_is_seen_whoever_it_is(tmp_path: Path) -> None:
    files, _ = new(tmp_path)
    assert not files.audio.has_writer()
    with subprocess.Popen(
        ["sh", "-c", 'exec 3>>"$0"; read x', files.raw], stdin=subprocess.PIPE
    ) as p:
        while not files.audio.has_writer():
            assert p.poll() is None
    assert not files.audio.has_writer()


def test_a_writer_that_comes_while_it_is_looked_for_is_no_harm(tmp_path: Path) -> None:
    files, _ = new(tmp_path)
    many = "for i in $(seq 3000); do : >>$0; done"
    with subprocess.Popen(["sh", "-c", many, files.raw]) as writer:
        while writer.poll() is None:
            files.audio.has_writer()
    assert writer.returncode == 0


def test_audio_without_its_key_is_removed(tmp_path: Path) -> None:
    kept, _ = new(tmp_path)
    lost, _ = new(tmp_path)
    (tmp_path / f"{lost.recording}.memo").unlink()
    assert [files.recording for files in tmpfs.found(tmp_path)] == [kept.recording]
    assert {path.stem for path in tmp_path.iterdir()} == {kept.recording}


def test_the_mount_unit_has_the_name_that_systemd_wants() -> None:
    (name,) = mount_unit("n", RecordingsConfig(folder="/run/pbx-ctl/rec"))
    assert name == r"run-pbx\x2dctl-rec.mount"
    (file,) = mount_unit("n", RecordingsConfig()).values()
    assert "Options=noswap,size=1024m,mode=0711,nodev,nosuid,noexec\n" in file.text
    assert "Where=/run/pbxctl/recordings\n" in file.text
    (file,) = mount_unit("n", RecordingsConfig(noswap=False)).values()
    assert "Options=size=1024m,mode=0711,nodev,nosuid,noexec\n" in file.text


def test_no_swap_is_well() -> None:
    assert check_swap("Filename Type Size\n").level is Level.OK
