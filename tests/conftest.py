"""The lab for every test: `lab` of its own, or `shared_lab` that all tests of a session use.

A test that needs the lab root and does not find it fails and says "run make setup"; it is not
skipped. Only FreeSWITCH, which is in no registry, may be absent.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.freeswitch import freeswitch_binary
from tests.lab.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as fresh:
        yield fresh


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    """For tests that leave its nodes as they found them; names of nodes must differ."""
    with Lab() as shared:
        yield shared


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if freeswitch_binary() is not None:
        return
    reason = "no FreeSWITCH on this machine: set FREESWITCH_BIN or put freeswitch on PATH"
    for item in items:
        if item.get_closest_marker("freeswitch"):
            item.add_marker(pytest.mark.skip(reason=reason))
