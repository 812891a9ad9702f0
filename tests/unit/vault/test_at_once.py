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
