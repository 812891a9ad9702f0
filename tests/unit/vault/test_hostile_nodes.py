"""A node with its own certificate and the worst intentions harms no recording but its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from controller.config_file import parse
from controller.records.recording_rows import RecordingState
from controller.vault.header import Particulars
from controller.vault.wire import State
from tests.postgresql_server import PostgresqlServer, is_installed
from tests.unit.vault.test_life_cycle import TEXT, House, config_in

ADDRESS, PORT = "127.0.17.6", 5518
RECORDS = f'records: {{url: "postgresql://postgres@{ADDRESS}:{PORT}/postgres"}}\n'


@pytest.fixture(params=["sqlite", "postgresql"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    config = config_in(tmp_path)
    if request.param == "sqlite":
        made = House(config)
        yield made
        made.close()
        return
    if not is_installed():
        pytest.skip("no PostgreSQL server on this machine (Debian: postgresql)")
    with PostgresqlServer(ADDRESS, PORT):
        made = House(parse(TEXT + RECORDS, config.source))
        yield made
        made.close()


def test_a_text_that_sql_cannot_hold_keeps_no_other_recording_waiting(house: House) -> None:
    hostile = house.sealed(particulars=Particulars("a\0b", "1\0", "2\0", "r\0", 30))
    honest = house.sealed()
    for made in (hostile, honest):
        house.ingest.take("n1", made.frames())
    assert house.keeper.collect() == 2
    assert house.keeper.finish() == 2
    assert house.heard(honest.id) == honest.plain
    assert house.index.get(hostile.id).call == "ab"


def test_a_reason_without_end_or_that_sql_cannot_hold_is_cut(house: House) -> None:
    made = house.sealed()
    end = msgspec.structs.replace(made.end(), reason="\0" + "x" * 1_000_000)
    [ack] = house.ingest.take("n1", [*made.frames()[:-1], end])
    assert ack.state is State.ENDED
    house.keeper.collect()
    assert house.keeper.finish() == 1
    row = house.index.get(made.id)
    assert (row.state, row.reason) == (RecordingState.COMPLETE, "x" * 200)
