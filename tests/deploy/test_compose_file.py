"""docker-compose.yml without an engine: zones, rights, secrets, and that its addresses agree."""

from __future__ import annotations

import ipaddress
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from controller.config import Config, read_secret, split_address
from controller.config_file import load, parse
from controller.metrics import PORT_OF_ROLE
from tests.deploy.compose_file import (
    FILE,
    ONE_SHOT,
    TOP,
    document,
    hand_out,
    services,
    subnets,
    volumes_of,
    zones_of,
)
from tests.lab.asterisk_conf import MODULES

#: who is in which zone; whoever adds a service decides it here too
ZONES = {
    "edge": {"edge", "a1", "a2", "f1", "driver", "doctor"},
    "control": {"redis", "edge", "a1", "a2", "f1", "driver", "steward", "gate", "vault",
                "prometheus", "doctor"},
    "data": {"postgres", "gate", "vault"},
    "observe": {"prometheus", "grafana"},
    "people": {"gate", "vault", "grafana", "cli", "doctor"},
}  # fmt: skip
SERVICES = sorted(services())


def member(name: str) -> str:
    """Those of a pod are one member of its zones."""
    mode = services()[name].get("network_mode", "")
    return mode.removeprefix("service:").removesuffix("-pod") or name.removesuffix("-pod")


def test_nobody_is_in_a_zone_that_is_not_his() -> None:
    found: dict[str, set[str]] = {zone: set() for zone in document()["networks"]}
    for name in SERVICES:
        for zone in zones_of(name):
            found[zone].add(member(name))
    assert found == ZONES
    closed = {zone for zone, settings in document()["networks"].items() if settings.get("internal")}
    assert closed == {"control", "data", "observe"}


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = services()[name]
    user = service["user"].split(":")[0]
    assert user.isdigit()
    assert int(user) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for right in ("privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "group_add"):
        assert right not in service, f"{name}: {right}"
    for target, (source, read_only) in volumes_of(name).items():
        if source.startswith((".", "/")):
            assert read_only, f"{name} may write {source} of the host at {target}"
            assert source.startswith(("./docker/", "./deploy/")), source
            assert (TOP / source).exists(), source


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_bounded_and_looked_after(name: str) -> None:
    service = services()[name]
    assert re.search(r":\d+(\.\d+)*\}?$", service["image"]), "a tag that says which version"
    assert service["image"].startswith("pbxctl/") == ("build" in service)
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["logging"]["options"]["max-size"]
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    assert ("healthcheck" in service) == (name not in ONE_SHOT)


def test_only_people_and_callers_find_an_open_port() -> None:
    found = {name: ports for name in SERVICES if (ports := services()[name].get("ports"))}
    rtp = hand_out().pairs(services()["setup"]["environment"]["PBXCTL_RTP"])
    assert found == {
        "edge-pod": ["${PBXCTL_SIP:-0.0.0.0:5061}:${PBXCTL_SIP_TO:-5061}/tcp"],
        **{f"{n}-pod": [f"${{PBXCTL_MEDIA:-0.0.0.0}}:{p}:{p}/udp"] for n, p in rtp.items()},
        "gate": ["${PBXCTL_GATE:-127.0.0.1:8443}:8443"],
        "vault": ["${PBXCTL_VAULT:-127.0.0.1:8445}:8445"],
        "grafana": ["${PBXCTL_GRAFANA:-127.0.0.1:3000}:3000"],
    }


def test_each_part_of_the_secrets_is_for_one_service() -> None:
    users: dict[str, set[str]] = {}
    for name in SERVICES:
        for source, _ in volumes_of(name).values():
            users.setdefault(source, set()).add(name)
    assert users["fleet"] == {"setup"}
    parts = {source for source in users if source.startswith("part-")}
    assert parts == {f"part-{t.removeprefix('/parts/')}" for t in volumes_of("setup")
                     if t.startswith("/parts/")}  # fmt: skip
    shared = {
        "part-edge": {"edge", "edge-redis", "edge-agent"},
        **{f"part-{node}": {node, f"{node}-agent"} for node in ("a1", "a2")},
        "part-f1": {"f1", "f1-control", "f1-agent"},
    }
    for part in parts:
        assert users[part] - {"setup"} == shared.get(part, {part.removeprefix("part-")})
    for node in ("a1", "a2", "f1"):
        assert users[f"{node}-recordings"] == {node, f"{node}-agent"}
        assert users[f"{node}-agent"] == {f"{node}-agent"}
    image = (TOP / "docker" / "pbxctl" / "Dockerfile").read_text()
    made = set(re.search(r"cd /parts .*?&& mkdir (.*?) &&", image.replace("\\\n", " "))[1].split())  # type: ignore[index]
    assert made == {part.removeprefix("part-") for part in parts}, "whose owner a volume takes"


def test_recordings_in_clear_are_never_swapped_out() -> None:
    for name, settings in document()["volumes"].items():
        if name.endswith("-recordings"):
            options = settings["driver_opts"]
            assert (options["type"], options["device"]) == ("tmpfs", "tmpfs")
            assert {"${PBXCTL_NOSWAP:-noswap}", "noexec", "mode=0700", "uid=10001"} <= set(
                options["o"].split(",")
            )


def given(text: str = "") -> Config:
    file = TOP / "docker" / "pbxctl.yaml"
    return parse(text or file.read_text(), str(file), secrets_there=False)


def with_freeswitch() -> Config:
    text = (TOP / "docker" / "pbxctl.yaml").read_text()
    return given(re.sub(r"^  # (f1:|  \w)", r"  \1", text, flags=re.M))


def test_the_config_has_the_addresses_of_the_compose_file() -> None:
    config = with_freeswitch()
    assert set(config.nodes) == {"a1", "a2", "f1"}
    at = {name: zones_of(name) for name in SERVICES}
    for name, node in config.nodes.items():
        assert split_address(node.sip)[0] == at[name]["edge"]
        assert split_address(node.control)[0] == at[name]["control"]
        allowed = {ipaddress.ip_network(at[who]["control"]) for who in ("driver", "doctor")}
        assert set(map(ipaddress.ip_network, node.control_from)) == allowed
    assert split_address(config.edges["edge"].sip)[0] == at["edge"]["edge"]
    assert f"@{at['postgres']['data']}/" in str(config.records.url)
    assert f"//{at['redis']['control']}:" in str(config.redis.url)
    assert split_address(config.gate.listen)[0] == at["gate"]["people"]
    assert config.vault
    assert split_address(config.vault.ingest)[0] == at["vault"]["control"]
    assert split_address(config.vault.listen)[0] == at["vault"]["people"]
    for name in SERVICES:
        for zone, address in at[name].items():
            assert not address or ipaddress.IPv4Address(address) in subnets()[zone]


def test_prometheus_asks_every_role_where_it_answers() -> None:
    scrape = yaml.safe_load((TOP / "docker" / "prometheus" / "prometheus.yml").read_text())
    (targets,) = [job["static_configs"][0]["targets"] for job in scrape["scrape_configs"]
                  if job["job_name"] == "pbxctl"]  # fmt: skip
    metrics_at = hand_out().pairs(services()["setup"]["environment"]["PBXCTL_METRICS_AT"])
    expected = set()
    for name in SERVICES:
        command = services()[name].get("command", [])
        if command[:1] == ["run"] and "profiles" not in services()[name]:
            address = zones_of(name)["control"]
            expected.add(f"{address}:{9460 + PORT_OF_ROLE[command[1]]}")
            assert metrics_at.get(name, address) == address
            assert services()[name]["healthcheck"]["test"][-2:] == sorted(
                [address, str(9460 + PORT_OF_ROLE[command[1]])], key=len, reverse=True
            )
    assert set(targets) == expected


def test_asterisk_loads_what_the_lab_has_proved_enough() -> None:
    text = (TOP / "docker" / "asterisk" / "etc" / "modules.conf").read_text()
    assert re.findall(r"^load = (\w+)\.so$", text, re.M) == list(MODULES)


def test_images_run_without_root_and_carry_no_secret() -> None:
    for file in sorted((TOP / "docker").glob("*/Dockerfile")):
        assert re.findall(r"^USER (.*)$", file.read_text(), re.M)[-1] == "10001:10001", file
    assert (TOP / ".dockerignore").read_text().splitlines()[1] == "*", "named files alone go in"


@pytest.mark.parametrize("profiles", [[], ["--profile", "freeswitch", "--profile", "tools"]])
def test_docker_compose_takes_the_file(profiles: list[str]) -> None:
    done = subprocess.run(
        ["docker-compose", "-f", FILE, *profiles, "config", "-q"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    return hand_out()


@pytest.fixture
def handed(setup: ModuleType, tmp_path: Path) -> Path:
    """/fleet and /parts of a fleet that the setup has gone over twice."""
    fleet, parts = tmp_path / "fleet", tmp_path / "parts"
    fleet.mkdir()
    text = re.sub(r"^  # (f1:|  \w)", r"  \1", (TOP / "docker/pbxctl.yaml").read_text(), flags=re.M)
    (fleet / "pbxctl.yaml").write_text(text)
    config = parse(text, str(fleet / "pbxctl.yaml"), secrets_there=False)
    environment = services()["setup"]["environment"]
    at, rtp = (setup.pairs(environment[k]) for k in ("PBXCTL_METRICS_AT", "PBXCTL_RTP"))
    for turn in range(2):
        setup.make_passwords(config)
        setup.make_certificates(config)
        setup.hand_out(config, parts, at, rtp)
        if not turn:
            before = {p: p.stat().st_mtime_ns for p in parts.rglob("*") if p.is_file()}
    assert before == {p: p.stat().st_mtime_ns for p in parts.rglob("*") if p.is_file()}
    return tmp_path


def test_each_role_gets_its_own_secrets_and_no_others(handed: Path) -> None:
    fleet, parts = handed / "fleet", handed / "parts"
    secrets = {p: p.read_text().strip() for p in (fleet / "secrets").rglob("*") if p.is_file()}
    keys = {p: p.read_text().strip() for p in (fleet / "pki").rglob("*.key")}

    def has(part: str) -> set[str]:
        text = "\n".join(p.read_text() for p in (parts / part).rglob("*") if p.is_file())
        return {str(p.relative_to(fleet)) for p, v in (secrets | keys).items() if v in text}

    nodes = {f"secrets/{node}" for node in ("a1", "a2", "f1")}
    probe = "pki/sip/driver_probe.key"
    assert has("gate") == {"secrets/redis/gate", "secrets/records", "pki/control/gate.key"}
    assert has("steward") == {"secrets/redis/steward", "pki/control/steward.key"}
    assert has("driver") == nodes | {"secrets/redis/driver", "pki/control/driver.key", probe}
    assert has("vault") == {"secrets/redis/vault", "secrets/records", "secrets/vault",
                            "pki/control/vault.key"}  # fmt: skip
    for node in ("a1", "a2", "f1"):
        own = {f"pki/sip/{node}.key", f"pki/control/node-{node}.key"}
        assert has(f"{node}-agent") == {"secrets/redis/agent", "pki/control/agent.key", *own}
        assert has(node) == {f"secrets/{node}", *own}
    edge = {"pki/sip/edge.key", "pki/control/edge-edge.key"}
    assert has("edge") == {"secrets/redis/edge", *edge}
    assert has("edge-agent") == {"secrets/redis/agent", "pki/control/agent.key", *edge}
    assert has("redis") == {"pki/control/redis.key"}, "and the digests of all passwords"
    assert has("postgres") == {"secrets/records", "pki/control/postgres.key"}
    assert has("grafana") == {"secrets/grafana"}
    assert has("cli") == set()
    for part in parts.iterdir():
        assert not {k for k in has(part.name) if k.endswith("/ca.key")}
        for path in part.rglob("*"):
            if path.is_file() and any(v in path.read_text() for v in (secrets | keys).values()):
                assert not path.stat().st_mode & 0o077, path


def test_what_is_handed_out_is_a_config_that_each_role_takes(handed: Path) -> None:
    for part in (handed / "parts").iterdir():
        if (part / "pbxctl.yaml").exists():
            config = load(part / "pbxctl.yaml")
            assert config.metrics.host != "0.0.0.0"
    driver = load(handed / "parts" / "driver" / "pbxctl.yaml")
    assert read_secret(driver.path(driver.nodes["a1"].password_file))


def test_a_renewed_certificate_is_left_to_the_agent_to_bring(
    handed: Path, setup: ModuleType
) -> None:
    config = load(handed / "fleet" / "pbxctl.yaml")
    environment = services()["setup"]["environment"]
    at, rtp = (setup.pairs(environment[k]) for k in ("PBXCTL_METRICS_AT", "PBXCTL_RTP"))
    parts = handed / "parts"
    before = (parts / "a1" / "tls" / "sip.pem").read_text()
    (handed / "fleet/pki/sip/a1.pem").unlink()
    setup.make_certificates(config)
    setup.hand_out(config, parts, at, rtp)
    assert (parts / "a1-agent/pki/sip/a1.pem").read_text() != before
    assert (parts / "a1/tls/sip.pem").read_text() == before, "or it would not tell Asterisk"
