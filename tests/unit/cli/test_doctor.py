"""Each judgement at its two ends, and the whole against the stand: no PBX behind its nodes.

tests/lab runs doctor against real PBXs.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from controller.config import NodeConfig
from controller.doctor import dumped_config, host, nodes, picture
from controller.doctor.finding import Finding, Level
from controller.errors import LoginRefused
from controller.fleet.keys import prefix
from controller.fleet.library import library
from controller.fleet.phones import FleetPhones, NodePhones
from controller.fleet.state import Beat, Presence
from controller.model import Kind, NodeFacts
from tests.gate_server import Stand
from tests.unit.cli.conftest import Pbxctl

A, F = Kind.ASTERISK, Kind.FREESWITCH


@pytest.mark.parametrize(
    ("finding", "level"),
    [
        (picture.judge_version("7.0.15"), Level.OK),
        (picture.judge_version("6.2.9"), Level.FAIL),
        (picture.judge_version("valkey"), Level.FAIL),
        (picture.judge_memory({"maxmemory": "0", "maxmemory-policy": "allkeys-lru"}), Level.OK),
        (picture.judge_memory({"maxmemory": "1", "maxmemory-policy": "noeviction"}), Level.OK),
        (picture.judge_memory({"maxmemory": "1", "maxmemory-policy": "allkeys-lru"}), Level.FAIL),
        (picture.judge_persistence({"appendonly": "yes", "save": ""}), Level.OK),
        (picture.judge_persistence({"appendonly": "no", "save": "3600 1"}), Level.OK),
        (picture.judge_persistence({"appendonly": "no", "save": ""}), Level.WARN),
        (picture.judge_replicas({"min-replicas-to-write": "1"}), Level.OK),
        (picture.judge_replicas({"min-replicas-to-write": "0"}), Level.FAIL),
        (picture.judge_exposure({"port": "0"}, False), Level.OK),
        (picture.judge_exposure({"port": "6379", "bind": "127.0.0.1 -::1"}, False), Level.OK),
        (picture.judge_exposure({"port": "6379", "bind": "* -::*"}, False), Level.FAIL),
        (picture.judge_exposure({"port": "6379", "bind": ""}, False), Level.FAIL),
        (picture.judge_exposure({"port": "0", "tls-port": "1", "bind": ""}, False), Level.FAIL),
        (picture.judge_exposure({"port": "6379", "bind": "10.0.0.1"}, True), Level.OK),
        (picture.judge_skew("redis", -0.9), Level.OK),
        (picture.judge_skew("redis", 1.1), Level.WARN),
        (picture.judge_library(None, b"x"), Level.WARN),
        (picture.judge_library(b"y", b"x"), Level.WARN),
        (picture.judge_library(b"x", b"x"), Level.OK),
        (picture.judge_crew(Presence(0, "", ("d",)))[0], Level.FAIL),
        (picture.judge_crew(Presence(0, "s", ()))[1], Level.FAIL),
        (picture.judge_crew(Presence(0, "s", ("d",)))[0], Level.OK),
        (picture.judge_place(None, "e1"), Level.WARN),
        (picture.judge_phones("n", NodePhones({"r": 2}), 0, 5), Level.OK),
        (picture.judge_phones("n", None, 2, 0), Level.WARN),
        (picture.judge_phones("n", NodePhones({"r": 1}, "disk full"), 1, 0), Level.FAIL),
        (dumped_config.judge_dump("n", "/l/f", 0o600, 0o755), Level.OK),
        (dumped_config.judge_dump("n", "/l/f", 0o644, 0o750), Level.OK),
        (dumped_config.judge_dump("n", "/l/f", 0o644, 0o755), Level.FAIL),
        (dumped_config.check_dump("n", "192.0.2.1", "/"), Level.OK),
        (dumped_config.check_dump("n", "127.0.0.1", "/nowhere"), Level.OK),
        (dumped_config.check_dump("n", "127.0.0.1", "/a\0b"), Level.WARN),
        (nodes.judge_version("n", NodeFacts(F, "1.11.2", 1)), Level.OK),
        (nodes.judge_version("n", NodeFacts(F, "1.11.1", 1)), Level.FAIL),
        (nodes.judge_version("n", NodeFacts(A, "22.10.1", 1)), Level.OK),
        (nodes.judge_version("n", NodeFacts(A, "22.9.0", 1)), Level.WARN),
        (nodes.judge_version("n", NodeFacts(A, "22.8.1", 1)), Level.FAIL),
        (nodes.judge_version("n", NodeFacts(A, "20.18.2", 1)), Level.WARN),
        (nodes.judge_version("n", NodeFacts(A, "18.26.4", 1)), Level.FAIL),
        (nodes.judge_version("n", NodeFacts(A, "24.0.0", 1)), Level.OK),
        (nodes.judge_version("n", NodeFacts(A, "", 1)), Level.FAIL),
        (nodes.judge_limit("n", None, None), Level.FAIL),
        (nodes.judge_limit("n", 100, 50), Level.WARN),
        (nodes.judge_limit("n", 50, None), Level.OK),
        (nodes.judge_limit("n", None, 50), Level.OK),
        (nodes.judge_modules("n", ["res_pjsip"], A), Level.FAIL),
        (nodes.judge_modules("n", [], F), Level.OK),
        (nodes.judge_rights("n", "u", ["Originate"]), Level.FAIL),
        (nodes.judge_rights("n", "u", []), Level.OK),
        (nodes.judge_heartbeat("n", False), Level.FAIL),
        (nodes.judge_heartbeat("n", True), Level.OK),
        (nodes.judge_cpu("n", '<param name="cpu-idle-smoothing-depth" value="1"/>'), Level.OK),
        (nodes.judge_cpu("n", '<param name="cpu-idle-smoothing-depth" value="30"/>'), Level.WARN),
        (nodes.judge_cpu("n", "-ERR no such thing"), Level.WARN),
        (nodes.judge_sip("n", "h:1", False), Level.FAIL),
        (nodes.judge_sip("n", "h:1", True), Level.OK),
        (host.judge_port("gate", "h:1", None, False), Level.OK),
        (host.judge_port("gate", "h:1", errno.EADDRINUSE, True), Level.OK),
        (host.judge_port("gate", "h:1", errno.EADDRINUSE, False), Level.WARN),
        (host.judge_port("gate", "h:1", errno.EADDRNOTAVAIL, False), Level.FAIL),
        (host.check_redis_server(None, None), Level.FAIL),
        (host.check_redis_server(None, "/usr/bin/redis-server"), Level.OK),
        (host.check_redis_server("redis://x", None), Level.OK),
    ],
)
def test_each_judgement(finding: Finding, level: Level) -> None:
    assert finding.level is level
    assert bool(finding.fix) == (level is not Level.OK)


def test_a_wrong_password_names_the_file_to_mend() -> None:
    node = NodeConfig(
        kind=A, region="r", sip="127.0.0.1:1", control="127.0.0.1:2", password_file="p"
    )
    assert "manager.conf" in nodes.judge_connect("n", node, LoginRefused("no")).fix


def test_secrets_and_state_dir(tmp_path: Path) -> None:
    secret = tmp_path / "s"
    assert host.check_secret("n", secret).level is Level.FAIL
    secret.write_text("x\n")
    secret.chmod(0o644)
    assert host.check_secret("n", secret).fix == f"run: chmod 600 {secret}"
    secret.chmod(0o600)
    assert host.check_secret("n", secret).level is Level.OK
    state = tmp_path / "state"
    assert host.check_state_dir(state, os.geteuid()).level is Level.WARN
    state.mkdir(mode=0o755)
    assert host.check_state_dir(state, os.geteuid()).fix == f"chmod 700 {state}"
    state.chmod(0o700)
    assert host.check_state_dir(state, os.geteuid()).level is Level.OK
    assert host.check_state_dir(state, os.geteuid() + 1).level is Level.FAIL


def test_a_port_is_free_ours_or_anothers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.15.7", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        assert host.bind_error("127.0.15.7", port) == errno.EADDRINUSE
    assert host.bind_error("127.0.15.7", port) is None
    assert host.bind_error("192.0.2.1", port) == errno.EADDRNOTAVAIL


def test_the_whole_against_nodes_that_are_not_there(stand: Stand, pbxctl: Pbxctl) -> None:
    stand.run(stand.playing.fleet.load())
    ran = pbxctl("doctor", "-o", "json")
    assert ran.code == 1
    found = {(f["about"], f["check"]): f["level"] for f in ran.json}
    assert found["config", "file"] == "ok"
    assert found["redis", "reachable"] == "ok"
    assert found["redis", "exposure"] == "ok"
    assert found["redis", "persistence"] == "warn"
    assert found["redis", "functions"] == "ok"
    assert found["fleet", "leader"] == "fail"
    assert found["fleet", "drivers"] == "ok"
    for node in ("e1", "e2", "w1"):
        assert found[node, "secret"] == "ok"
        assert found[node, "placement"] == "ok"
        assert found[node, "control port"] == "fail"
        assert found[node, "sip"] == "fail"
    problems = pbxctl("doctor", "--problems", "-o", "json").json
    assert {f["level"] for f in problems} == {"warn", "fail"}


def test_a_node_that_was_named_later_asks_for_a_restart() -> None:
    assert "after a restart" in picture.judge_place(None, "e9").fix


def test_a_node_that_is_down_is_explained_by_its_other_findings(
    stand: Stand, pbxctl: Pbxctl
) -> None:
    lease = stand.playing.leases.pop("e1")  # nobody beats for it any more
    stand.run(stand.playing.fleet.beat(lease, Beat(False, problem="frozen")))
    told = [f for f in pbxctl("doctor", "-o", "json").json if f["about"] == "e1"]
    (place,) = [f for f in told if f["check"] == "placement"]
    assert place["fix"] == "what the other findings about e1 say"
    assert {f["check"] for f in told if f["level"] == "fail"} > {"placement"}


def test_nodes_without_the_phones_of_their_region_are_seen(stand: Stand, pbxctl: Pbxctl) -> None:
    fleet, fleet_name = stand.playing.fleet, stand.config.fleet
    phones = FleetPhones(fleet)

    async def publish() -> None:
        while not (epoch := await fleet.lead("phones", "s", 5000)):  # the stand's gate leads
            await fleet.client.delete(f"{prefix(fleet_name)}:lease:@phones")
        await phones.publish(epoch, "west", 3, [])
        await phones.acknowledge("e1", NodePhones({"west": 2}, "No space left on device"))
        await phones.acknowledge("w1", NodePhones({"west": 3}))

    stand.run(publish())
    told = pbxctl("doctor", "-o", "json").json
    found = {f["about"]: (f["level"], f["what"]) for f in told if f["check"] == "phones"}
    assert found["w1"] == ("ok", "in step, 0 registered")
    # east spills to west, not the other way round, so e1 and e2 need no phone of west
    assert found["e1"][0] == "fail"
    assert "No space left" in found["e1"][1]
    assert found["e2"][0] == "ok"


def test_another_versions_library_is_seen(stand: Stand, pbxctl: Pbxctl) -> None:
    other = library().decode() + "\n-- another version\n"

    async def replace() -> None:
        await stand.playing.fleet.client.function_load(other, replace=True)

    stand.run(replace())
    try:
        found = pbxctl("doctor", "-o", "json").json
        (level,) = [f["level"] for f in found if f["check"] == "functions"]
        assert level == "warn"
    finally:
        stand.run(stand.playing.fleet.load())


def test_a_wrong_config_is_a_finding(bare: Pbxctl, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("fleet: 1\n")
    ran = bare("doctor", "--config", str(file), "-o", "json")
    assert ran.code == 1
    assert [(f["about"], f["level"]) for f in ran.json] == [("config", "fail")]
