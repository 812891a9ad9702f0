"""A fleet of lab nodes under pbxctl's own roles, each role a process of its own.

    with LabFleet(lab, {"e1": "east", "w1": "west"}, redis=lab.redis()) as fleet:
        fleet.start("driver"); fleet.start("steward")
        fleet.until_active()
        view = fleet.view("e1")

Reads the picture by `ask`, as an edge or the gate would.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from controller.config import Config
from controller.config_file import load
from controller.errors import FleetUnreachable
from controller.fleet.functions import Fleet, connect
from controller.fleet.state import NodeView
from controller.model import NodeState, Verdict
from tests.lab.asterisk import AMI_PORT, Asterisk
from tests.lab.freeswitch import ESL_PORT, FreeSwitch
from tests.lab.lab import Lab
from tests.lab.node import write_secret
from tests.lab.services import Redis
from tests.lab.until import until

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parents[2]


#: what a test about other things than encryption runs with
PLAIN = {"signalling": "plain", "media": "plain", "control": "plain"}


class LabFleet:
    """nodes: running PBXs and their regions. redis: None for the private one of `pbxctl up`.

    user: who logs in; on rendered files another than the lab's own, whose rights are wider.
    edge_nodes: names of PBXs that act as an edge. settings: further keys of the config.
    """

    def __init__(
        self,
        lab: Lab,
        nodes: Mapping[Asterisk | FreeSwitch, str],
        redis: Redis | None,
        *,
        calls_max: int = 100,
        user: str = "pbxctl",
        edge_nodes: Collection[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.lab = lab
        self.nodes = {node.name: node for node in nodes}
        self.folder = lab.run.folder / "fleet"
        self.folder.mkdir()
        self.roles: dict[str, subprocess.Popen[bytes]] = {}
        (self.folder / "secrets").mkdir()
        regions = sorted(set(nodes.values()))
        document: dict[str, Any] = {
            "fleet": "lab",
            "state_dir": str(self.folder / "state"),
            "redis": {"url": redis.url} if redis else {},
            "metrics": {"first_port": 0},
            "regions": {r: {"spill_to": [o for o in regions if o != r]} for r in regions},
            "nodes": {},
            "placement": {"reservation_s": 2, "ramp_s": 0},
            "security": PLAIN,
        }
        for node, region in nodes.items():
            secret = self.folder / "secrets" / node.name
            write_secret(secret, node.secret)
            kind = "asterisk" if isinstance(node, Asterisk) else "freeswitch"
            document["nodes"][node.name] = {
                "kind": kind,
                "user": user,
                "region": region,
                "sip": node.sip,
                "control": f"{node.address}:{AMI_PORT if kind == 'asterisk' else ESL_PORT}",
                "password_file": str(secret),
                "calls_max": calls_max,
                "edge": node.name in edge_nodes,
            }
        for key, value in (settings or {}).items():
            document[key] = {**document.get(key, {}), **value} if isinstance(value, dict) else value
        (self.folder / "state").mkdir(mode=0o700)
        self.config_path = self.folder / "pbxctl.yaml"
        self.config_path.write_text(yaml.safe_dump(document))

    @property
    def config(self) -> Config:
        return load(self.config_path)

    def start(
        self,
        role: str,
        name: str = "",
        options: Sequence[str] = (),
        *,
        tree: Path = REPOSITORY,
        user: int | None = None,
        groups: Collection[int] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts `pbxctl run ROLE` of the source in `tree`; its log is fleet folder / NAME.log.

        user, groups: other than root's, by number.
        """
        name = name or role
        log = (self.folder / f"{name}.log").open("ab")
        argv = [sys.executable, "-m", "controller.cli", "--config", str(self.config_path)]
        process = subprocess.Popen(
            [*argv, "run", role, *options],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=tree,
            user=user,
            group=user,
            extra_groups=groups,
            env={**os.environ, "PBXCTL_LOG": "debug", "PYTHONPATH": str(tree)},
        )
        log.close()
        self.roles[name] = process
        return process

    def stop(self, name: str, *, kill: bool = False) -> int:
        process = self.roles.pop(name)
        if kill:
            process.kill()
        else:
            process.terminate()
        return process.wait(10)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")

    def ask(self, question: Callable[[Fleet], Awaitable[T]]) -> T:
        async def once() -> T:
            fleet = Fleet(connect(self.config, "gate"), self.config.fleet)
            try:
                return await question(fleet)
            finally:
                await fleet.close()

        return asyncio.run(once())

    def views(self) -> dict[str, NodeView]:
        return {v.name: v for v in self.ask(lambda fleet: fleet.nodes())}

    def view(self, name: str) -> NodeView:
        return self.views()[name]

    def route(self, call_id: str, region: str = "east", callee: str = "9196") -> Verdict:
        return self.ask(lambda fleet: fleet.route(call_id, region, "100", callee))

    def until_state(self, name: str, state: NodeState, timeout_s: float = 15) -> None:
        def there() -> bool:
            try:
                view = self.views().get(name)
            except FleetUnreachable:  # Redis itself is starting
                return False
            return view is not None and view.state is state

        until(there, timeout_s, f"{name} is {state}")

    def until_active(self, timeout_s: float = 20) -> None:
        for name in self.nodes:
            self.until_state(name, NodeState.ACTIVE, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self.roles):
            self.stop(name, kill=True)
        if error is not None:
            for log in sorted(self.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text('utf-8', 'replace')[-3000:]}")
