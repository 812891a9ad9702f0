"""A version beside the next: roles change one after the other under load, and back again.

Measured for docs/performance.md: calls refused (0), calls that were up and ended (0), nodes above
their limit (0).
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from controller.model import NodeState
from tests.lab.asterisk import Asterisk
from tests.lab.counted import Count
from tests.lab.fleet import REPOSITORY, LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.rendered import put_rendered, start_kamailio
from tests.lab.until import until

pytestmark = [pytest.mark.lab, pytest.mark.alone]

CALLS_MAX = 14
RATE_PER_S, HOLD_S, LOAD_S = 6, 2.0, 28
NEXT = "99.0.0"
NEW_FUNCTION = "redis.register_function('of_the_next_version', function() return 'yes' end)\n"


def next_version(folder: Path) -> Path:
    """This source under another version, with one more function and another text in Lua."""
    tree = folder / "next"
    for part in ("controller", "lua", "dialplans"):
        shutil.copytree(
            REPOSITORY / part, tree / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tree / "controller" / "version.py").write_text(f'VERSION = "{NEXT}"\n')
    (tree / "lua" / "redis" / "99_next.lua").write_text(NEW_FUNCTION)
    return tree


def change(fleet: LabFleet, tree: Path, old: str, new: str) -> None:
    """As docs/operations.md has it: where two can run at once, the old one ends after the new one
    has begun."""

    def begin(role: str, word: str) -> None:
        fleet.start(role, f"{role}-{new}", tree=tree)
        until(lambda: word in log_of(fleet, f"{role}-{new}"), 10, f"{role}-{new}: {word}")

    def end(role: str) -> None:
        assert fleet.stop(f"{role}-{old}") == 0

    begin("steward", "metrics on")
    end("steward")
    until(lambda: "leads the fleet" in log_of(fleet, f"steward-{new}"), 10, "leads")
    begin("driver", "metrics on")
    end("driver")
    for name in fleet.nodes:
        fleet.until_state(name, NodeState.ACTIVE)
    end("gate")
    begin("gate", "gate on")
    end("agent")
    begin("agent", "metrics on")


def log_of(fleet: LabFleet, name: str) -> str:
    path = fleet.folder / f"{name}.log"
    return path.read_text("utf-8", "replace") if path.exists() else ""


def test_no_call_notices_an_upgrade_nor_its_undoing(tmp_path: Path) -> None:
    tree = next_version(tmp_path)
    with Lab() as lab:
        a, b = lab.asterisk("a"), lab.asterisk("b")
        redis = lab.redis()
        settings = {
            "edges": {"k": {"region": "east", "sip": f"{lab.address()}:5060"}},
            "numbers": [{"prefix": "95", "service": "echo"}],
            "agent": {"host": lab.address()},
        }
        nodes: dict[Asterisk | FreeSwitch, str] = {a: "east", b: "east"}
        with LabFleet(
            lab, nodes, redis, calls_max=CALLS_MAX, user="fleet", settings=settings
        ) as fleet:
            for node in (a, b):
                put_rendered(fleet.config, node)
            start_kamailio(lab, fleet.config, "k")
            for role in ("driver", "steward", "gate", "agent"):
                fleet.start(role, f"{role}-one")
            fleet.until_active()
            edge = fleet.config.edges["k"].sip
            until(lambda: lab.call(edge, "9500", audio=False).answered, 10, "placed")

            count = Count([a, b])
            began_s = time.monotonic()
            with count.running():
                up = lab.calls(edge, "9500", count=4, hold_s=LOAD_S + 3)
                up.wait_answered(4)
                load = lab.calls(
                    edge, "9500", count=RATE_PER_S * LOAD_S, rate_per_s=RATE_PER_S,
                    hold_s=HOLD_S, audio=False,
                )  # fmt: skip
                change(fleet, tree, "one", "two")
                upgraded_s = time.monotonic() - began_s
                assert "of_the_next_version" in redis.ask("FUNCTION LIST")
                change(fleet, REPOSITORY, "two", "three")
                undone_s = time.monotonic() - began_s
                assert "of_the_next_version" not in redis.ask("FUNCTION LIST")
                result = load.result(60)
                stayed = up.result(60)
            stats = fleet.ask(lambda door: door.stats())
            print(
                f"\nupgraded after {upgraded_s:.1f} s, undone after {undone_s:.1f} s; of "
                f"{result.attempted} calls refused {result.failed} ({result.codes}), dropped "
                f"{result.answered - result.completed} and {4 - stayed.completed} of 4, "
                f"most calls {count.most} of {CALLS_MAX}, {stats}"
            )
            assert undone_s < LOAD_S, "the load ended before the roles had changed"
            assert stayed.completed == 4, "a call that was up was dropped"
            assert result.codes == {200: result.attempted}
            assert result.completed == result.attempted
            assert max(count.most.values()) <= CALLS_MAX
            assert not [kind for kind in stats if kind.startswith("reject:")], stats
            assert f"version {NEXT}" in log_of(fleet, "steward-two")
            until(lambda: fleet.view("a").calls + fleet.view("b").calls == 0, 10, "exact again")
