"""The cheap benches run, and their figures come from measuring."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.edges import with_alg10
from bench.figures import Figure, Report, percentile
from bench.report import markdown
from bench.streams import asterisk, freeswitch

REPOSITORY = Path(__file__).resolve().parents[2]


@cache
def quick(name: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench", name, "--quick", "--json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def test_placement_measures_route_beside_set() -> None:
    seen = quick("placement")
    for size in (10, 100):
        # A window's rate bounds the time in the server from above: one thread, one after the other.
        assert 0 < seen[f"route_us_{size}"] <= 1e6 / seen[f"routes_per_s_{size}"]
    assert 0 < seen["ratio_to_set"] < 1
    assert 0 < seen["ratio_to_set_pipelined_16"] < seen["ratio_to_set"]
    assert 0.3 < seen["growth_10_to_100"] < 3
    assert seen["windows"] >= 6
    assert set(seen["goals"]) == {"ratio_to_set", "growth_10_to_100"}


def test_two_runs_measure_anew() -> None:
    first = quick("placement")
    quick.cache_clear()
    again = quick("placement")
    measured = [k for k in first["means"] if isinstance(first[k], float)]
    assert len(measured) > 8
    differs = [k for k in measured if first[k] != again[k]]
    assert len(differs) > len(measured) * 0.8


def test_events_reads_everything_and_compares() -> None:
    seen = quick("events")
    assert seen["events_lost"] == 0
    assert seen["stock_events_lost"] == 0
    for name in ("esl", "esl_driver", "ami_small", "ami_large"):
        assert seen[f"{name}_per_s"] > 0
        assert seen[f"{name}_stock_per_s"] > 0
    assert 5000 < seen["esl_bytes"] < 7000
    assert 300 < seen["ami_small_bytes"] < 500
    assert 1500 < seen["ami_large_bytes"] < 2000
    assert set(seen["goals"]) == {"esl_ratio", "ami_ratio", "events_lost"}


def test_vault_seals_seeks_rotates_and_erases() -> None:
    seen = quick("vault")
    # Loose bounds: other work on the machine must not fail this; a figure that is none must.
    for ratio in ("seal_ratio", "seal_one_ratio", "sm4_ratio"):
        assert 0.3 < seen[ratio] < 1.3, ratio
    assert 0 < seen["seal_evidence_gb_s"] < seen["seal_gb_s"]
    assert 0 < seen["sm4_seal_gb_s"] < seen["seal_gb_s"]
    assert 0 < seen["seek_p50_ms"] <= seen["seek_p99_ms"]
    assert seen["rotate_body_bytes"] == 0
    assert 1 <= seen["rotate_read_ratio"] < 1.05
    assert seen["rotate_100k_s"] > 0.01
    assert 0 < seen["erase_p99_ms"] < 1000
    assert 0 < seen["erase_rotating_p99_ms"] < 1000
    assert seen["calls_per_core"] > 100
    assert 0 < seen["shipping_core_share"] < 1
    goals = {
        "seal_ratio",
        "calls_per_core",
        "sm4_ratio",
        "seek_p99_ms",
        "rotate_body_bytes",
        "erase_p99_ms",
    }
    assert goals < set(seen["goals"])


def test_streams_are_calls_of_their_own() -> None:
    # Started, answered and ended of each; were the ids the same, all but the first would be echoes.
    assert freeswitch(5, plain=True).means == freeswitch(5, plain=False).means == 15
    assert asterisk(5).means == 15
    assert asterisk(5, variables=3).event_bytes > asterisk(5).event_bytes + 60


def test_a_missed_goal_shows() -> None:
    figures = (
        Figure("a", 0.39, "low", "≥ 0.40"),
        Figure("b", 250.0, "just", "≤ 250"),
        Figure("c", math.nan, "nothing", "≤ 1"),
    )
    assert [f.met for f in figures] == [False, True, False]
    document = Report("x", True, "a setup", figures).document()
    assert document["c"] is None
    page = markdown({**document, "command": "bench", "benches": {"x": document}})
    assert "| x | `a` | 0.39 | ≥ 0.40 | **missed** |" in page
    assert "| x | `b` | 250 | ≤ 250 | met |" in page
    assert "| x | `c` | not measured | ≤ 1 | **missed** |" in page


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(1, 101), 0.99) == 99
    assert math.isnan(percentile([], 0.99))


def test_algorithm_10_replaces_redis_in_the_rendered_edge() -> None:
    template = (REPOSITORY / "dialplans" / "kamailio" / "kamailio.cfg.j2").read_text()
    text = with_alg10(template)
    assert "redis_cmd(" not in text
    assert "ndb_redis" not in text
    assert text.count('ds_select_dst("1", "10")') == 1
    assert text.count("ds_load_update()") == 3
    with pytest.raises(ValueError, match="any more"):
        with_alg10(template.replace("route[PLACE]", "route[OTHER]"))
