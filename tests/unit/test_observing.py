"""deploy/grafana and deploy/prometheus stand by what they say of each other, the docs and the code.

What a real Prometheus answers to the dashboards is tests/lab/test_dashboards.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import click
import pytest
import yaml

from controller.cli.main import pbxctl
from controller.config import MetricsConfig
from controller.metrics import PORT_OF_ROLE
from deploy.grafana.dashboards.__main__ import FOLDER, written
from tests.lab.fleet import REPOSITORY

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
PROVISIONING = REPOSITORY / "deploy" / "grafana" / "provisioning"
RUNBOOKS = (REPOSITORY / "docs" / "runbooks.md").read_text("utf-8")
METRICS = (REPOSITORY / "docs" / "metrics.md").read_text("utf-8")
DASHBOARDS = {name: json.loads(text) for name, text in written().items()}


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Every rule by its name. kind: alert or record."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(PROMETHEUS.glob("*.rules.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            found |= {rule[kind]: rule for rule in group["rules"] if kind in rule}
    return found


ALERTS = rules("alert")
QUERIES = [
    target["expr"]
    for dashboard in DASHBOARDS.values()
    for panel in dashboard["panels"]
    for target in panel["targets"]
]


def promtool(*words: str) -> None:
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    ran = subprocess.run(
        [binary, *words], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_json_is_what_the_code_writes() -> None:
    there = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert there == written(), "run: make dashboards"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_can_be_provisioned(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert "${DS_" not in json.dumps(dashboard) and "__inputs" not in dashboard
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert variables == ["datasource", "job", "region", "node"]
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in dashboard["panels"]:
        assert panel["description"] and panel["targets"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_what_is_asked_for_exists() -> None:
    known = set(re.findall(r"^\| `(pbxctl_\w+)` \| (\w+)", METRICS, re.M))
    series = {name for name, kind in known if kind != "histogram"} | {
        f"{name}_{part}"
        for name, kind in known
        if kind == "histogram"
        for part in ("bucket", "sum", "count")
    }
    asked = " ".join(QUERIES + [rule["expr"] for kind in ("alert", "record") for rule in
                                rules(kind).values()])  # fmt: skip
    words = set(re.findall(r"(?<![\w:])pbxctl_\w+", asked))
    assert not words - series
    recorded = set(re.findall(r"\b\w+:pbxctl_\w+:\w+", asked))
    assert recorded == set(rules("record"))


def test_every_metric_is_shown_or_watched() -> None:
    asked = " ".join(QUERIES + [rule["expr"] for rule in ALERTS.values()])
    named = set(re.findall(r"^\| `(pbxctl_\w+)` \|", METRICS, re.M))
    assert not {name for name in named if name not in asked}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"
    section = RUNBOOKS.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
    for part in ("**Means**", "**Look at**", "**do**"):
        assert part.lower() in section.lower(), f"{name}: {part}"


def test_runbooks_are_for_alerts_that_exist() -> None:
    assert re.findall(r"^## (.+)$", RUNBOOKS, re.M) == sorted(
        ALERTS, key=lambda name: RUNBOOKS.index(f"\n## {name}\n")
    )


def test_runbooks_name_commands_that_exist() -> None:
    told = set(re.findall(r"`pbxctl ([^`]+)`", RUNBOOKS))
    assert len(told) > 10
    for words in told:
        command: click.Command | None = pbxctl
        for word in words.split():
            if not isinstance(command, click.Group):
                break
            command = command.get_command(click.Context(command), word)
            assert command is not None, f"pbxctl {words}"


def test_every_alert_has_a_case() -> None:
    for path in PROMETHEUS.glob("*.rules.yml"):
        alerts = re.findall(r"- alert: (\w+)", path.read_text())
        cases = path.with_name(path.name.replace(".rules.", ".test."))
        if not alerts:
            continue
        for test in yaml.safe_load(cases.read_text())["tests"]:
            quiet, fires = test["alert_rule_test"]
            assert quiet["alertname"] == fires["alertname"] == test["name"] == alerts.pop(0)
            assert "exp_alerts" not in quiet and len(fires["exp_alerts"]) == 1
        assert not alerts


def test_the_rules_do_what_their_cases_say() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", *(path.name for path in PROMETHEUS.glob("*.test.yml")))


def test_prometheus_looks_where_the_roles_are() -> None:
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    (group,) = job["static_configs"]
    first = MetricsConfig().first_port
    told = re.findall(r"- 127\.0\.0\.1:(\d+) # (\w+)", (PROMETHEUS / "prometheus.yml").read_text())
    assert {role: int(port) - first for port, role in told} == PORT_OF_ROLE
    assert group["targets"] == [f"127.0.0.1:{port}" for port, role in told if role != "vault"]
    assert re.fullmatch(r"pbxctl.*", job["job_name"])


def test_the_alertmanager_example_routes_alerts_that_exist() -> None:
    example = yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text())
    receivers = {receiver["name"] for receiver in example["receivers"]}
    used = {example["route"]["receiver"]} | {r["receiver"] for r in example["route"]["routes"]}
    assert used == receivers
    for rule in example["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            found = re.fullmatch(r'alertname(=~?)"(.+)"', matcher)
            assert found and any(re.fullmatch(found[2], name) for name in ALERTS), matcher


def test_grafana_finds_datasource_and_dashboards() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "pbxctl.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "pbxctl.yml").read_text())[
        "providers"
    ]
    docs = (REPOSITORY / "docs" / "dashboards.md").read_text("utf-8")
    assert provider["options"]["path"] in docs
    for dashboard in DASHBOARDS.values():
        assert f"**{dashboard['title'].removeprefix('pbxctl · ')}**" in docs
