"""The records on a real PostgreSQL, where one is installed: what differs from SQLite."""

from __future__ import annotations

import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.config import Config
from controller.config_file import parse
from controller.errors import RecordsUnreachable, Refused
from controller.model import MediaPolicy
from controller.records.database import open_database
from controller.records.phones import Digests, PhoneBook

ADDRESS = "127.0.17.5"
ONE = Digests("1" * 32, "1" * 64)
TEXT = """
fleet: test
regions: {{east: {{}}}}
nodes:
  a: {{kind: asterisk, region: east, sip: "192.0.2.1:5060", control: "192.0.2.1:5038",
       password_file: a}}
records: {{url: "postgresql://postgres@{address}:{port}/postgres"}}
security: {{signalling: plain, media: plain, control: plain}}
state_dir: state
"""


def program(name: str) -> Path | None:
    found = [*Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    return found[0] if found else Path(p) if (p := shutil.which(name)) else None


def config(folder: Path, port: int) -> Config:
    (folder / "a").write_text("secret\n")
    (folder / "a").chmod(0o600)
    return parse(TEXT.format(address=ADDRESS, port=port), str(folder / "pbxctl.yaml"))


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """A PostgreSQL of its own; its port."""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    if initdb is None or pg_ctl is None or "postgres" not in {u.pw_name for u in pwd.getpwall()}:
        pytest.skip("no PostgreSQL server on this machine (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="pbxctl-pg"))
    shutil.chown(folder, "postgres")
    asked = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    options = f"-c listen_addresses={ADDRESS} -c port=5517 -k {folder}"
    try:
        subprocess.run([*asked, initdb, "-D", data, "-A", "trust"], check=True, capture_output=True)
        started = [pg_ctl, "-D", data, "-o", options, "-l", folder / "log", "-w", "start"]
        subprocess.run(asked + [str(p) for p in started], check=True, stdout=subprocess.DEVNULL)
        yield 5517
        subprocess.run([*asked, pg_ctl, "-D", data, "-m", "fast", "stop"], capture_output=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_of_four_gates_that_start_and_add_at_once_one_wins(server: int, tmp_path: Path) -> None:
    wanted = config(tmp_path, server)
    start = threading.Barrier(4)
    ended: list[str] = []

    def add() -> None:
        start.wait()
        book = PhoneBook(open_database(wanted))  # each brings the tables, and only one makes them
        try:
            book.add("1001", "ü\u2028'; --", "east", MediaPolicy.REQUIRE, ONE)
            ended.append("added")
        except Refused:
            ended.append("refused")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["added", "refused", "refused", "refused"]
    book = PhoneBook(open_database(wanted))
    assert [phone.display for phone in book.all()] == ["ü\u2028'; --"]
    assert book.versions() == {"east": 1}
    assert book.rotate("1001", ONE).version == 2
    book.forget([book.remove("1001")])
    assert (book.all(), book.of_region("east")) == ([], (3, []))


def test_a_server_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordsUnreachable, match="cannot be used"):
        open_database(config(tmp_path, 5518))
