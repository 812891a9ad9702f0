"""Disks that fill, fail to sync or lose what they took: nothing is lost, somebody is told."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from obstore.store import LocalStore

from controller.api.recording_shapes import HoldAsk, RecordingDetail, Verified
from controller.errors import CommandRefused, RecordsUnreachable, StoreUnreachable, Tampered
from controller.vault.bodies import Bodies
from controller.vault.found import Found
from controller.vault.ingest import Ingest, Limits
from controller.vault.intake import Intake
from controller.vault.store import AlreadyStored, Store, open_store
from controller.vault.wire import State, encode
from tests.sealed import Recording, plain
from tests.unit.vault.test_life_cycle import House, config_in
from tests.unit.vault.test_vault_role import heard
from tests.vault_server import VaultServer, free_port

LIMITS = Limits(frozenset({"test"}), 1 << 30, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_takes_no_word_back_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes(1_300_000))
    bodies = Bodies(Store(LocalStore(small_disk), "small", small_disk))
    ingest = Ingest(bodies, Intake(tmp_path / "intake"), LIMITS)
    made = Recording(plain(80.5))
    ingest.take("n1", [made.begin()])
    held = 0
    with pytest.raises(StoreUnreachable, match="No space left"):
        while True:
            [ack] = ingest.take("n1", [made.some(held, 4)])
            held = ack.next
    assert held > 10
    read, size, _ = bodies.open_body(made.id)
    assert read(0, size) == made.body[:size], "what was acknowledged is there"
    assert size >= 56 + held * 16400
    (small_disk / "ballast").unlink()
    [ack] = ingest.take("n1", [made.some(held, 99), made.end()])
    assert ack.state is State.ENDED
    assert bodies.open_body(made.id)[0](0, 1 << 22) == made.body
    assert not list(small_disk.rglob("*staged*"))
    ingest.close()


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (access(getenv("FAIL_FSYNC"), F_OK) == 0) { errno = EIO; return -1; }
    return real(fd);
}
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose fsync fails with EIO while a file is there."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a failing fsync with (Debian: tcc, libc6-dev)")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    made = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(made), str(folder / "shim.c"), "-ldl"]
    subprocess.run(command, check=True)
    return made


def test_what_did_not_sync_is_not_acknowledged(shim: Path, tmp_path: Path) -> None:
    """EIO once drops the pages and says "synced" the next time: so it is all written anew."""
    fails = tmp_path / "fails"
    env = {"LD_PRELOAD": str(shim), "FAIL_FSYNC": str(fails)}
    with VaultServer(tmp_path, env=env) as vault:
        agent = vault.agent("n1")
        made = agent.sealed(plain(6.5))
        assert agent.say(made.begin(), made.some(0, 2))[0].next == 2
        fails.touch()
        for _ in range(2):
            status, body = vault.agent("n1").ask("POST", _frames(made))
            assert (status, b"StoreUnreachable" in body) == (503, True)
        assert "pbxctl_vault_failed_total 2.0" in vault.scrape()
        fails.unlink()
        [ack] = vault.agent("n1").say(made.some(2, 5), made.end())
        assert ack.state is State.ENDED
        vault.until_shown(made.id, "complete")
        assert heard(vault.person("anna"), made.id) == made.plain


def _frames(made: Recording) -> bytes:
    return encode([made.some(2, 3)])


class LosingStore(LocalStore):
    """A fake: a store that says "stored", and gives other bytes back or none."""

    lies = ""

    def get_range(self, path, *, start, end=None, length=None):  # type: ignore[no-untyped-def]
        data = bytes(super().get_range(path, start=start, end=end, length=length))
        return bytes([data[0] ^ 1]) + data[1:] if self.lies in path and self.lies else data


@pytest.mark.parametrize("what", ["disk", "server"])
def test_a_store_that_gives_other_bytes_back_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = tmp_path if what == "disk" else None
    ingest = Ingest(
        Bodies(Store(LosingStore(tmp_path), "liar", folder)), Intake(tmp_path / "i"), LIMITS
    )
    made = Recording(plain(2.5))
    ingest.take("n1", [made.begin()])
    with monkeypatch.context() as lie:
        lie.setattr(LosingStore, "lies", "part-")
        lie.setattr(os, "pread", lambda _handle, size, _at: bytes(size - 1))
        with pytest.raises(StoreUnreachable, match="not what it was given"):
            ingest.take("n1", [made.some(0, 2)])
    parts = [path.name for path in tmp_path.rglob("part-*")]
    assert parts == ([] if folder else ["part-00000000"])
    ingest.close()


def test_the_name_of_each_object_is_synced_and_that_of_its_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    root.mkdir()
    ingest = Ingest(Bodies(Store(LocalStore(root), "here", root)), Intake(tmp_path / "i"), LIMITS)
    made = Recording(plain(4.5))
    synced: list[str] = []
    real = os.fsync

    def watched(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_relative_to(root):
            synced.append(str(path.relative_to(root)).split(".staged")[0])
        real(handle)

    monkeypatch.setattr(os, "fsync", watched)
    here = f"open/{made.id}"
    ingest.take("n1", [made.begin()])
    assert synced == [f"{here}/begin", here, "open", "."]
    for first, folders in ((0, [here, "open", "."]), (2, [here])):
        synced.clear()
        ingest.take("n1", [made.some(first, 2)])
        assert synced == [f"{here}/part-{first:08d}", *folders]
    # Another vault of this store has given it up meanwhile.
    shutil.rmtree(root / here)
    synced.clear()
    ingest.take("n1", [made.some(4, 2)])
    assert synced == [f"{here}/part-00000004", here, "open", "."]
    ingest.close()


def test_what_is_lost_later_is_found_by_a_check_and_told(tmp_path: Path) -> None:
    with VaultServer(tmp_path) as vault:
        agent = vault.agent("n1")
        gone, torn, good = (vault.recorded(agent.sealed(plain(3.5))) for _ in range(3))
        growing = agent.sealed(plain(9))
        agent.say(growing.begin(), growing.some(0, 2))
        agent.say(growing.some(2, 2))
        agent.say(growing.some(4, 2))
        store = vault.folder / "state/vault/store"
        (store / "bodies" / gone.id[:2] / gone.id).unlink()
        body = store / "bodies" / torn.id[:2] / torn.id
        body.write_bytes(body.read_bytes()[:-1])
        (store / "open" / growing.id / "part-00000002").unlink()
        vault.until_shown(growing.id, "growing")
        found = vault.person("carl").post(Found, "vault", "check", body=HoldAsk())
        assert (found.checked, found.lost_count) == (4, 3)
        assert "gone" in found.lost[gone.id]
        assert "not what was stored" in found.lost[torn.id]
        assert "chunk 2 is gone" in found.lost[growing.id]
        shown = vault.person("olga").get(RecordingDetail, "recordings", gone.id)
        assert shown.recording.lost
        told = vault.person("anna").post(Verified, "recordings", gone.id, "verify", body=HoldAsk())
        assert (told.intact, "gone" in told.words) == (False, True)
        deadline = time.monotonic() + 40
        while "pbxctl_vault_lost 3.0" not in vault.scrape():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert heard(vault.person("anna"), good.id) == good.plain
        # Brought back, it is no longer lost; and the agent that has them still fills the gap.
        (store / "bodies" / gone.id[:2] / gone.id).write_bytes(gone.body)
        vault.kill()
        vault.start()
        [ack] = vault.agent("n1").say(growing.some(2, 2))
        assert ack.next == 6
        again = vault.person("carl").post(Found, "vault", "check", body=HoldAsk())
        assert list(again.lost) == [torn.id]


def test_a_lost_part_is_not_joined_over(tmp_path: Path) -> None:
    house = House(config_in(tmp_path), give_up_s=0.0)
    made = house.sealed(8.5)
    for first in (0, 2, 4):
        house.ingest.take("n1", [made.begin(), made.some(first, 2)])
    house.keeper.collect()
    part = tmp_path / "state/vault/store/open" / made.id / "part-00000002"
    part.unlink()
    with pytest.raises(Tampered, match="chunk 2 is gone"):
        house.keeper.finish_one(made.id)
    assert part.with_name("part-00000004").exists(), "nothing is thrown away"
    house.close()


def test_nothing_is_read_while_the_log_cannot_be_written(tmp_path: Path) -> None:
    with VaultServer(tmp_path) as vault:
        made = vault.recorded(vault.agent("n1").sealed(plain(2.5)))
        assert heard(vault.person("anna"), made.id) == made.plain
        database = vault.folder / "state/records.db"
        with sqlite3.connect(database) as sql:
            sql.execute("DROP TABLE recording_reads")
        with pytest.raises(RecordsUnreachable):
            heard(vault.person("anna"), made.id)
        with pytest.raises(CommandRefused):
            heard(vault.person("olga"), made.id)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of a moto server with a bucket."""
    port = free_port()
    server = ThreadedMotoServer("127.0.0.1", port)
    server.start()
    url = f"http://127.0.0.1:{port}"
    request = urllib.request.Request(f"{url}/bucket", method="PUT")
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/x")
    urllib.request.urlopen(request).read()
    yield url
    server.stop()


def s3_lines(url: str) -> str:
    return (
        f"s3: {{bucket: bucket, endpoint: '{url}', access_key_id: x, secret_key_file: secret}}\n"
        "  store: recordings"
    )


def test_the_whole_way_with_s3(s3: str, tmp_path: Path) -> None:
    with VaultServer(tmp_path, s3_lines(s3)) as vault:
        agent = vault.agent("n1")
        made = agent.sealed(plain(20.5))
        agent.say(made.begin(), made.some(0, 7))
        vault.kill()
        vault.start()
        [ack] = vault.agent("n1").say(made.some(5, 4))
        assert ack.next == 9
        [ack] = vault.agent("n1").say(made.some(9, 99), made.end())
        assert ack.state is State.ENDED
        vault.until_shown(made.id, "complete")
        assert heard(vault.person("anna"), made.id) == made.plain
        found = vault.person("carl").post(Found, "vault", "check", body=HoldAsk())
        assert (found.checked, found.lost_count) == (1, 0)
        assert not (vault.folder / "state/vault/store").exists()


def test_an_object_is_never_changed(s3: str, tmp_path: Path) -> None:
    vault = VaultServer(tmp_path, s3_lines(s3))
    for store in (open_store(vault.config), Store(LocalStore(tmp_path), "here", tmp_path)):
        store.put("a/b", b"first")
        with pytest.raises(AlreadyStored):
            store.put("a/b", b"second")
        assert store.read_all("a/b") == b"first"
        assert store.put_long("a/b", iter([b"x" * (6 << 20), b"y"])) == store.digest("a/b")
        assert store.size("a/b") == (6 << 20) + 1
        store.delete("a/b")
        store.delete("a/b")
        with pytest.raises(FileNotFoundError):
            store.read_all("a/b")


def test_a_store_that_is_away_is_told(tmp_path: Path) -> None:
    vault = VaultServer(tmp_path, s3_lines(f"http://127.0.0.1:{free_port()}"))
    store = open_store(vault.config)
    with pytest.raises(StoreUnreachable, match="cannot be stored"):
        store.put("a", b"b")
