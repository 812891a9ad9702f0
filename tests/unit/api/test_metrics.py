"""Metrics of the gate: their names and values, the port rule, and their page in the docs."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller import metrics
from controller.agent import answers, packets, recording_metrics
from controller.api.fleet_metrics import FleetCollector
from controller.config import Config
from controller.config_file import parse
from controller.errors import PbxctlError
from controller.fleet.functions import Fleet, connect
from controller.fleet.phones import FleetPhones, NodePhones
from controller.model import PhoneRegistered
from controller.pbx import attestor_metrics, worker_metrics
from controller.roles import driver as _driver  # noqa: F401  its imports add to the page
from controller.roles import steward
from controller.vault import metrics as vault_metrics
from tests.gate_server import Playing, write_config
from tests.redis_server import RedisServer

PHONES = ("registered", "pending_changes", "problem")
DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def config(server: RedisServer, tmp_path: Path) -> Config:
    file = write_config(tmp_path, server.url)
    return parse(file.read_text(), str(file))


@pytest.fixture
async def playing(config: Config) -> AsyncIterator[Playing]:
    fleet = Fleet(connect(config, "gate"), config.fleet)
    playing = Playing(config, fleet)
    await playing.join()
    yield playing
    await fleet.close()


async def scrape(port: int) -> str:
    url = f"http://127.0.15.9:{port}/metrics"
    return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())


async def page(config: Config, fleet: Fleet) -> str:
    registry = metrics.make_registry("gate")
    collector = FleetCollector(config, fleet)
    registry.register(collector)
    served = await metrics.serve_metrics(registry, "127.0.15.9", 0, collector.refresh)
    try:
        return await scrape(served.port)
    finally:
        await served.close()


def values(text: str) -> dict[tuple[str, ...], float]:
    return {
        (s.name, *(s.labels[k] for k in ("node", "region", "state", "reason") if k in s.labels)): (
            s.value
        )
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


async def test_values_are_the_fleets(config: Config, playing: Playing) -> None:
    await playing.start("e1", 7)
    await playing.fleet.route("c1", "west", "1", "2")
    await playing.fleet.want("e2", "draining")
    seen = values(await page(config, playing.fleet))
    assert seen["pbxctl_node_calls", "e1", "east"] == 7
    assert seen["pbxctl_node_calls_reserved", "w1", "west"] == 1
    assert seen["pbxctl_node_calls_limit", "w1", "west"] == 10
    assert seen["pbxctl_node_state", "e2", "east", "draining"] == 1
    assert seen["pbxctl_node_state", "e2", "east", "active"] == 0
    assert seen["pbxctl_node_cpu_ratio", "e1", "east"] == pytest.approx(0.2)
    assert seen["pbxctl_placements_total", "west"] == 1
    assert seen[("pbxctl_fleet_reachable",)] == 1
    assert seen[("pbxctl_drivers",)] == 1
    assert seen[("pbxctl_leader",)] == 0


async def test_phones_are_counted_by_node(config: Config, playing: Playing) -> None:
    phones, fleet = FleetPhones(playing.fleet), playing.fleet
    epoch = await fleet.lead("phones", "s", 60_000) or ""
    await phones.publish(epoch, "east", 7, [])
    await phones.acknowledge("e1", NodePhones({"east": 7}))
    await phones.acknowledge("e2", NodePhones({"east": 4}, "No space left on device"))
    await phones.told(playing.leases["e1"], [PhoneRegistered("1001", "sip:x", 60)])
    seen = values(await page(config, fleet))
    assert [seen[f"pbxctl_node_phones_{n}", "e1", "east"] for n in PHONES] == [1, 0, 0]
    assert [seen[f"pbxctl_node_phones_{n}", "e2", "east"] for n in PHONES] == [0, 3, 1]
    # west takes east's phones in, and has acknowledged none
    assert [seen[f"pbxctl_node_phones_{n}", "w1", "west"] for n in PHONES] == [0, 7, 0]


async def test_redis_away_leaves_no_old_values(
    server: RedisServer, config: Config, playing: Playing
) -> None:
    server.stop()
    seen = values(await page(config, playing.fleet))
    assert seen[("pbxctl_fleet_reachable",)] == 0
    assert not [key for key in seen if key[0].startswith("pbxctl_node")]


def promtool(text: str) -> None:
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    ran = subprocess.run(
        [binary, "check", "metrics"], input=text, text=True, capture_output=True, timeout=30
    )
    assert ran.returncode == 0, ran.stderr


def documented(role: str) -> set[str]:
    section = DOCS.read_text("utf-8").split(f"## The {role}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `(pbxctl_[a-z_]+)`", section, re.M))


def existing(text: str) -> set[str]:
    # `_created` is prometheus-client's own companion of counters without labels.
    types = re.findall(r"^# TYPE (pbxctl_[a-z_]+) ", text, re.M)
    return {name for name in types if not name.endswith("_created")}


async def test_the_gates_page(config: Config, playing: Playing) -> None:
    await playing.fleet.route("c1", "nowhere", "1", "2")
    text = await page(config, playing.fleet)
    assert "pbxctl_rejects_total" in text
    assert documented("gate") == existing(text)
    promtool(text)


@pytest.mark.parametrize(
    ("role", "registry"),
    [
        ("driver", worker_metrics.REGISTRY),
        ("steward", steward.REGISTRY),
        ("agent", answers.REGISTRY),
        ("vault", vault_metrics.REGISTRY),
    ],
)
def test_the_other_roles_pages(role: str, registry: CollectorRegistry) -> None:
    # they register with their role when imported
    assert attestor_metrics.LEGS and packets.LOOKS and recording_metrics.LIVE
    text = generate_latest(registry).decode()
    assert documented(role) == existing(text)
    promtool(text)


async def test_no_label_names_a_call(config: Config, playing: Playing) -> None:
    await playing.fleet.route("secret-call-id", "east", "+49301234", "400999")
    text = await page(config, playing.fleet)
    for part in ("secret-call-id", "49301234", "400999"):
        assert part not in text


async def test_a_taken_port_gives_way_ten_above() -> None:
    registry = metrics.make_registry("gate")
    first = await metrics.serve_metrics(registry, "127.0.15.9", 0)
    second = await metrics.serve_metrics(registry, "127.0.15.9", first.port)
    third = await metrics.serve_metrics(registry, "127.0.15.9", first.port)
    try:
        assert second.port >= first.port + metrics.SECOND_FROM
        assert third.port > second.port
        assert "pbxctl_build_info" in await scrape(third.port)
    finally:
        for served in (first, second, third):
            await served.close()


async def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(PbxctlError, match=r"192\.0\.2\.1"):
        await metrics.serve_metrics(metrics.make_registry("gate"), "192.0.2.1", 0)
