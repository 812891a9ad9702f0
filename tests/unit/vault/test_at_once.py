"""What the keeper's works, people and agents do at the same moment ends none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.records.recording_rows import RecordingState
from tests.unit.vault.test_life_cycle import House, config_in


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(config_in(tmp_path))
    yield made
    made.close()


def once_after(
    monkeypatch: pytest.MonkeyPatch, of: object, name: str, what: Callable[[], object]
) -> None:
    """Has `what` happen behind the first call of a method that found something."""
    real = getattr(of, name)
    done: list[bool] = []

    def meanwhile(*args: Any, **named: Any) -> Any:
        found = real(*args, **named)
        if found and not done:
            done.append(True)
            what()
        return found

    monkeypatch.setattr(of, name, meanwhile)


@pytest.mark.parametrize("at", ["listed", "begun to join"])
def test_two_works_that_finish_one_recording(
    house: House, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The work of every 0.5 s and that of every 15 s meet."""
    made = house.sealed(4.5)
    house.ingest.take("n1", [made.begin(), made.some(0, 2)])
    house.ingest.take("n1", [made.some(2, 3), made.end()])
    house.keeper.collect()
    ended: list[bool] = []

    def other() -> None:
        ended.append(house.keeper.finish_one(made.id))

    if at == "listed":
        once_after(monkeypatch, house.bodies.store, "below", other)
    else:
        once_after(monkeypatch, house.bodies, "part_bytes", other)
    house.keeper.finish()
    assert ended == [True]
    assert house.index.get(made.id).state is RecordingState.COMPLETE
    assert house.heard(made.id) == made.plain
    assert house.bodies.growing(made.id) is None


def test_a_recording_that_ends_while_it_is_heard_is_heard_to_where_it_was(house: House) -> None:
    made = house.sealed(150.5)
    house.ingest.take("n1", [made.begin(), made.some(0, 70)])
    house.ingest.take("n1", [made.some(70, 60)])
    house.keeper.collect()
    parts = house.reading.audio(house.index.get(made.id)).parts()
    heard = next(parts)
    house.ingest.take("n1", [made.some(130, 21), made.end()])
    assert house.keeper.finish() == 1
    heard += b"".join(parts)
    assert heard == made.plain[: 130 << 14]


def test_a_recording_that_ends_just_before_it_is_heard_is_not_told_as_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house.sealed(4.5)
    house.ingest.take("n1", made.frames())
    house.keeper.collect()
    real = house.bodies.head

    def late(recording: str) -> object:
        found = real(recording)
        monkeypatch.setattr(house.bodies, "head", real)
        house.keeper.finish()
        return found

    monkeypatch.setattr(house.bodies, "head", late)
    assert house.heard(made.id) == made.plain
