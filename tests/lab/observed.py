"""A short day of an encrypted fleet under a real Prometheus, for the dashboards' queries.

An Asterisk edge asks its agent and calls by TLS and SRTP, for 24 s; on the way one node of the
nearest region is killed and started again, and the node of the further one is frozen and thawed.
What the other near node echoes is recorded and sealed into a vault. Prometheus runs on
deploy/prometheus as it is committed, but for its addresses, the vault as a target, and that it
looks every second.

    with observed() as seen:
        seen.instant("sum(pbxctl_node_calls)")
"""

from __future__ import annotations

import json
import math
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.lab.asterisk import Asterisk
from tests.lab.fleet import REPOSITORY
from tests.lab.freeswitch import FreeSwitch, freeswitch_binary
from tests.lab.lab import Lab
from tests.lab.node import write_secret
from tests.lab.phone_fleet import PhoneFleet
from tests.lab.until import until

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
#: file name to dashboard, as committed
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text())
    for path in sorted((REPOSITORY / "deploy" / "grafana" / "json").glob("*.json"))
}
EDGE, KILLED, RECORDED, FROZEN = "edge-1", "east-1", "east-2", "west-1"
CALLS_MAX = {EDGE: 60, KILLED: 10, RECORDED: 10, FROZEN: 30}
#: 10.5 s of speech, after which the call ends
SPEECH = "demo-nogo"
NUMBER = "9500"
RATE_PER_S = 2.0
LOAD_S = 24.0
KILL_AT_S, RESTART_AT_S, FREEZE_AT_S, THAW_AT_S = 7.0, 12.0, 16.0, 20.0


@dataclass
class Series:
    """labels without those that Prometheus adds; points: Unix seconds and value."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


@dataclass
class Observed:
    """A run that is over, and what Prometheus keeps of it. began_s, ended_s: Unix time.

    placed: calls that the edge was told to make. events: seconds since the beginning, and what.
    """

    url: str
    began_s: float
    ended_s: float = 0.0
    placed: int = 0
    events: list[tuple[float, str]] = field(default_factory=list)

    @property
    def length_s(self) -> float:
        return self.ended_s - self.began_s

    def filled(self, expr: str, node: str = ".*") -> str:
        """A query of a dashboard, its variables filled in as Grafana does."""
        values = {
            "$__rate_interval": "10s",
            "$__range": f"{math.ceil(self.length_s)}s",
            "$job": "pbxctl",
            "$region": ".*",
            "$node": node,
        }
        for name, value in values.items():
            expr = expr.replace(name, value)
        assert "$" not in expr, expr
        return expr

    def get(self, path: str, **query: str | float) -> Any:
        """What /api/v1/PATH has as data."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error

    def over_time(self, expr: str, step_s: float = 1.0) -> list[Series]:
        """A query for every second of the run."""
        data = self.get(
            "query_range", query=expr, start=self.began_s, end=self.ended_s, step=step_s
        )
        return [
            Series(row["metric"], [(float(t), float(v)) for t, v in row["values"]])
            for row in data["result"]
        ]

    def instant(self, expr: str) -> list[Series]:
        """A query as of the run's end."""
        data = self.get("query", query=expr, time=self.ended_s)
        return [
            Series(row["metric"], [(float(row["value"][0]), float(row["value"][1]))])
            for row in data["result"]
        ]


def _passphrase(lab: Lab) -> Path:
    file = lab.run.folder / "vault.passphrase"
    write_secret(file, secrets.token_urlsafe(24))
    return file


@contextmanager
def observed() -> Iterator[Observed]:
    with Lab() as lab:
        nodes: dict[Asterisk | FreeSwitch, str] = {
            lab.asterisk(EDGE): "south",
            lab.asterisk(KILLED): "east",
            lab.asterisk("east-2"): "east",
            lab.freeswitch(FROZEN) if freeswitch_binary() else lab.asterisk(FROZEN): "west",
        }
        host = lab.address()
        settings = {
            "metrics": {"host": host, "first_port": 9460},
            "numbers": [{"prefix": "95", "service": "echo", "regions": ["east", "west"]}],
            "placement": {"ramp_s": 4, "spill_above": 0.6, "reservation_s": 2},
            "media": {"sample_share": 0.2},
            "vault": {
                "ingest": f"{host}:8446",
                "listen": f"{host}:8445",
                "keys": {"provider": "file", "passphrase_file": str(_passphrase(lab))},
            },
            "recordings": {
                "folder": str(lab.run.tmpfs()),
                "rules": [{"name": "all", "service": "echo"}],
            },
        }
        with PhoneFleet(lab, nodes, lab.redis(), encrypted=True, settings=settings) as fleet:
            document = yaml.safe_load(fleet.config_path.read_text())
            for name, told in document["nodes"].items():
                told |= {"calls_max": CALLS_MAX[name], "edge": name == EDGE}
            # The nodes share a machine that others load too: an agent beside each would tell them
            # all that CPU, and placement would go by it. One records, and its weight makes up.
            document["nodes"][RECORDED]["weight"] = 2
            fleet.config_path.write_text(yaml.safe_dump(document))
            fleet.start("vault")
            fleet.begin("--node", EDGE, "--node", RECORDED)
            run = _prometheus(lab, host)
            _live(fleet, run)
            yield run


def _prometheus(lab: Lab, host: str) -> Observed:
    text = (PROMETHEUS / "prometheus.yml").read_text()
    config = lab.run.folder / "prometheus.yml"
    config.write_text(
        text.replace("127.0.0.1:", f"{host}:")
        .replace('"*.rules.yml"', f'"{PROMETHEUS}/*.rules.yml"')
        .replace("interval: 5s", "interval: 1s")
        .replace("# - ", "- ")  # the vault
    )
    listen = f"{lab.address()}:9090"
    run = Observed(f"http://{listen}", time.time())

    def ready() -> bool:
        try:
            return bool(urllib.request.urlopen(f"{run.url}/-/ready", timeout=0.5).status == 200)
        except OSError:
            return False

    lab.program(
        "prometheus",
        ["prometheus", f"--config.file={config}", f"--web.listen-address={listen}",
         f"--storage.tsdb.path={lab.run.folder / 'prometheus'}", "--log.level=warn"],
        ready=ready,
    )  # fmt: skip
    # As on a Prometheus that was there first: counters are seen at 0.
    until(lambda: len(run.get("query", query="up == 1")["result"]) >= 5, 10, "all roles scraped")
    return run


def _live(fleet: PhoneFleet, run: Observed) -> None:
    edge = fleet.nodes[EDGE]
    assert isinstance(edge, Asterisk)
    killed, frozen = fleet.nodes[KILLED], fleet.nodes[FROZEN]
    todo = [
        (KILL_AT_S, f"{KILLED} is killed", killed.kill),
        (RESTART_AT_S, f"{KILLED} is started again", killed.launch),
        (FREEZE_AT_S, f"{FROZEN} is frozen", frozen.freeze),
        (THAW_AT_S, f"{FROZEN} is thawed", frozen.thaw),
    ]
    time.sleep(2.5)  # two scrapes from which rates count
    began = time.monotonic()
    while (elapsed_s := time.monotonic() - began) < LOAD_S:
        if todo and elapsed_s >= todo[0][0]:
            _, what, do = todo.pop(0)
            run.events.append((time.time() - run.began_s, what))
            do()
        _call(edge)
        run.placed += 1
        time.sleep(max(0.0, run.placed / RATE_PER_S - (time.monotonic() - began)))
    until(lambda: fleet.view(EDGE).calls == 0, 30, "the calls are over")
    time.sleep(2.5)  # their ends are scraped
    run.ended_s = time.time()


def _call(edge: Asterisk) -> None:
    told = edge.ami(
        f"Action: Originate\r\nChannel: Local/{NUMBER}@pbxctl-ask\r\nApplication: Playback\r\n"
        f"Data: {SPEECH}\r\nAsync: true\r\n"
    )
    assert "Success" in told, told
