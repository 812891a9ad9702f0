"""The records on a real PostgreSQL, where one is installed: what differs from SQLite."""

from __future__ import annotations

import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from controller.config import Config
from controller.config_file import parse
from controller.errors import RecordsUnreachable, Refused
from controller.model import MediaPolicy
from controller.records.database import open_database
from controller.records.phones import Digests, PhoneBook
from controller.records.reads import ReadingLog
from controller.records.recording_rows import Erasure, RecordingRow, RecordingState, Wanted
from controller.records.recordings import RecordingIndex

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


def test_recordings_and_their_logs(server: int, tmp_path: Path) -> None:
    database = open_database(config(tmp_path, server))
    index = RecordingIndex(database)
    row = RecordingRow(
        recording="0" * 32, tenant="t", node="n", call="c", rule="r", started_ms=1, rate_hz=8000,
        channels=2, suite="s", header=b"\x00\xff", slot=7, period="2027-01", caller=b"1",
        callee=b"2", caller_tag=b"tag", callee_tag=b"other", keep_until_ms=5, arrived_ms=1,
    )  # fmt: skip
    index.add([row])
    assert index.get(row.recording) == row
    assert index.find(Wanted(tags=(b"other",), from_ms=1, until_ms=2, call="c"), 9) == [row]
    ended: dict[str, Any] = {
        "reason": "",
        "plain_bytes": 3_200_000_000,
        "sealed_bytes": 1,
        "call_ms": None,
    }
    assert index.ended(row.recording, RecordingState.COMPLETE, **ended) == "complete"
    index.hold(row.recording, "case", "cert:carl")
    assert index.due(10, 9) == []
    assert index.count(10).held == 1
    with pytest.raises(Refused, match="legal hold"):
        index.doom(row.recording, "x")
    assert index.lift(row.recording, "cert:carl") == 1
    assert [r.recording for r in index.due(10, 9)] == [row.recording]
    assert index.kept(10)[0].overdue == 1
    index.mark_lost([(row.recording, True)])
    index.doom(row.recording, "x")
    erasure = Erasure(row.recording, 9, b"{}", b"sig")
    index.erased(erasure)
    index.erased(erasure)
    assert index.erasure(row.recording) == erasure
    assert (index.get(row.recording).caller, index.keys_by_period()) == (None, {})
    log = ReadingLog(database)
    log.write("cert:anna", "auditor", "::1", "listen", row.recording, "")
    assert [read.who for read in log.find(limit=9)] == ["cert:anna"]
    for verb in ("DELETE FROM {}", "UPDATE {} SET at_ms = 0", "TRUNCATE {}"):
        for table in ("recording_reads", "recording_erasures"):
            with (
                pytest.raises(RecordsUnreachable, match="append-only"),
                database.transaction() as sql,
            ):
                sql.execute(text(verb.format(table)))


def test_of_a_hold_and_an_erasure_at_once_one_wins(server: int, tmp_path: Path) -> None:
    """Forty races: whoever is first, a held recording is never doomed."""
    wanted = config(tmp_path, server)
    first, second = RecordingIndex(open_database(wanted)), RecordingIndex(open_database(wanted))
    for number in range(40):
        name = f"{number + 1:032x}"
        first.add([
            RecordingRow(
                recording=name, tenant="t", node="n", call="c", rule="r", started_ms=1,
                rate_hz=8000, channels=1, suite="s", header=b"", slot=1, period="p",
                state=RecordingState.COMPLETE, keep_until_ms=5, arrived_ms=1,
            )
        ])  # fmt: skip
        start = threading.Barrier(2)
        won: list[str] = []

        def race(act: Callable[[], object], what: str, start: Any = start, won: Any = won) -> None:
            start.wait()
            try:
                act()
                won.append(what)
            except Refused:
                pass

        threads = [
            threading.Thread(target=race, args=(partial(first.hold, name, "case", "x"), "hold")),
            threading.Thread(target=race, args=(partial(second.doom, name, "y"), "doom")),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1, won
        assert (first.get(name).state == "erasing") == (won == ["doom"])


def test_a_server_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordsUnreachable, match="cannot be used"):
        open_database(config(tmp_path, 5518))
