"""What the doctor says of a Kamailio on its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.doctor.edges import judge_edge
from controller.doctor.finding import Level

FOLDER = Path("/var/lib/pbxctl/rendered/k")


@pytest.mark.parametrize(
    ("told", "tls", "level"),
    [
        ("kamailio 5.6.3 (x86_64/Linux)", True, Level.FAIL),
        ("kamailio 5.7.4 (x86_64/Linux)", True, Level.FAIL),
        ("kamailio 5.6.3 (x86_64/Linux)", False, Level.OK),
        ("kamailio 5.8.0 (x86_64/Linux)", True, Level.OK),
        ("kamailio 6.1.5 (x86_64/Linux)", True, Level.OK),
        ("kamailio 10.0.0-dev1 (x86_64/Linux)", True, Level.OK),
        ("error: 500 - command not found", True, Level.WARN),
        ("", True, Level.WARN),
        (None, True, Level.WARN),
    ],
)
def test_tls_wants_a_kamailio_that_bears_it(told: str | None, tls: bool, level: Level) -> None:
    found = judge_edge("k", told, tls, FOLDER)
    assert (found.about, found.level) == ("k", level)
    assert bool(found.fix) == (level is not Level.OK)
