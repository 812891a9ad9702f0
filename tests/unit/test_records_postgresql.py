"""The records on a real PostgreSQL, where one is installed: what differs from SQLite."""

from __future__ import annotations

import shutil
import threading
import time
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
from controller.records.copying import copy_records, restore_records
from controller.records.database import open_database
from controller.records.phones import Digests, PhoneBook
from controller.records.postgresql import ANSWER_S, CONNECT_S
from controller.records.reads import ReadingLog
from controller.records.recording_rows import Erasure, RecordingRow, RecordingState, Wanted
from controller.records.recordings import RecordingIndex
from tests.postgresql_server import PostgresqlServer, is_installed

ADDRESS, PORT = "127.0.17.5", 5517
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


def config(folder: Path, port: int, address: str = ADDRESS) -> Config:
    (folder / "a").write_text("secret\n")
    (folder / "a").chmod(0o600)
    return parse(TEXT.format(address=address, port=port), str(folder / "pbxctl.yaml"))


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """A PostgreSQL of its own; its port."""
    if not is_installed():
        pytest.skip("no PostgreSQL server on this machine (Debian: postgresql)")
    with PostgresqlServer(ADDRESS, PORT):
        yield PORT


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


def test_a_base_is_saved_and_put_back(server: int, tmp_path: Path) -> None:
    if shutil.which("pg_dump") is None:
        pytest.skip("no pg_dump on this machine (Debian: postgresql-client)")
    ours = config(tmp_path, server)
    PhoneBook(open_database(ours)).add("7001", "", "east", MediaPolicy.REQUIRE, ONE)
    saved = tmp_path / "saved"
    saved.mkdir()
    assert copy_records(ours, saved) == "records.dump"
    with pytest.raises(RecordsUnreachable, match="pg_restore"):
        restore_records(ours, saved)  # what is there stays
    assert "7001" in {phone.name for phone in PhoneBook(open_database(ours)).all()}
    with PostgresqlServer("127.0.17.6", PORT):
        empty = config(tmp_path, PORT, "127.0.17.6")
        restore_records(empty, saved)
        assert "7001" in {phone.name for phone in PhoneBook(open_database(empty)).all()}


def test_a_server_that_freezes_is_told_of_in_time_and_used_again(tmp_path: Path) -> None:
    if not is_installed():
        pytest.skip("no PostgreSQL server on this machine (Debian: postgresql)")
    with PostgresqlServer("127.0.17.7", PORT) as server:
        ours = config(tmp_path, PORT, "127.0.17.7")
        book = PhoneBook(open_database(ours))
        server.freeze()
        try:
            began_s = time.monotonic()
            with pytest.raises(RecordsUnreachable):
                book.all()
            assert time.monotonic() - began_s < ANSWER_S + CONNECT_S + 1
        finally:
            server.thaw()
        assert book.all() == []
