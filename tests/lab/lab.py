"""The lab: real PBXs, callers, Redis and Kamailio on loopback, and the ways to break them.

    with Lab() as lab:
        a = lab.asterisk("a")
        load = lab.calls(a, count=10, hold_s=5)     # SIPp calls with real audio, in the background
        a.freeze()                                  # or kill, cut; mend by thaw, restart, heal
        print(load.result())

All of it blocks, so asyncio code says `await asyncio.to_thread(lab.asterisk, "a")`. Whatever the
lab starts dies with it: at the end of the block, and by a guard process (sweep.py) after any other
end of this process. Needs root and the lab root that `make setup` makes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from tests.lab.asterisk import Asterisk, Files
from tests.lab.baresip import Baresip
from tests.lab.freeswitch import FreeSwitch, FreeSwitchConf
from tests.lab.freeswitch_conf import freeswitch_xml
from tests.lab.node import Node
from tests.lab.run import Run, lab_root
from tests.lab.services import Kamailio, Program, Redis
from tests.lab.sipp import CallOutcome, CallPlan, Calls

N = TypeVar("N", bound=Node)


class TakesCalls(Protocol):
    """sip: host:port over UDP."""

    sip: str


class Lab:
    """One run of the lab, usable from several threads once entered."""

    def __init__(self) -> None:
        self._run = Run(lab_root())
        self._senders = itertools.count(1)
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._run.close()

    @property
    def run(self) -> Run:
        return self._run

    def address(self) -> str:
        """A loopback address that nobody else has, for a program of the test's own."""
        return self._run.address()

    def asterisk(
        self,
        name: str,
        *,
        calls_max: int | None = None,
        files: Files | None = None,
    ) -> Asterisk:
        """A running Asterisk. files: replace or add config files, name below etc/ to text, or a
        function that makes them from the node's settings (address, secret, folder)."""
        address = self._run.address()
        return self._started(
            Asterisk(self._run, name, address, calls_max=calls_max, files=files or {})
        )

    def freeswitch(
        self, name: str, *, sessions_max: int = 1000, conf: FreeSwitchConf = freeswitch_xml
    ) -> FreeSwitch:
        """A running FreeSWITCH. conf: makes its freeswitch.xml. LabUnusable: there is no binary."""
        address = self._run.address()
        return self._started(
            FreeSwitch(self._run, name, address, sessions_max=sessions_max, conf=conf)
        )

    def phone(self, name: str, files: Mapping[str, str], *, tone_hz: int = 440) -> Baresip:
        """A running baresip on the files that `pbxctl phones add` made; see Baresip."""
        return self._started(Baresip(self._run, name, self._run.address(), files, tone_hz=tone_hz))

    def redis(self, name: str = "redis", *, options: Mapping[str, str] | None = None) -> Redis:
        """A running, empty redis-server. options: lines of redis.conf, name to value."""
        return self._started(Redis(self._run, name, self._run.address(), options or {}))

    def kamailio(
        self, config: str, name: str = "kamailio", *, defines: Mapping[str, str] | None = None
    ) -> Kamailio:
        """A running Kamailio. config: the text of a kamailio.cfg, see services.Kamailio."""
        address = self._run.address()
        return self._started(Kamailio(self._run, name, address, config, defines or {}))

    def program(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Any program as a node; its output is in `log`, and it dies with the lab."""
        address = self._run.address()
        return self._started(Program(self._run, name, address, argv, ready, environment or {}))

    def _started(self, node: N) -> N:
        self.nodes.append(node)
        node.start()
        return node

    def calls(
        self,
        target: TakesCalls | str,
        number: str = "9196",
        *,
        count: int = 1,
        rate_per_s: float = 10.0,
        hold_s: float = 1.0,
        audio: bool = True,
        headers: Mapping[str, str] | None = None,
        caller: str = "sipp",
        answer_timeout_s: float = 8.0,
        concurrent_max: int = 1000,
    ) -> Calls:
        """SIPp calls in the background, to a node or host:port; see CallPlan."""
        plan = CallPlan(
            target=target if isinstance(target, str) else target.sip,
            number=number,
            count=count,
            rate_per_s=rate_per_s,
            hold_s=hold_s,
            audio=audio,
            headers=headers or {},
            caller=caller,
            answer_timeout_s=answer_timeout_s,
            concurrent_max=concurrent_max,
        )
        folder = self._run.folder / f"sipp-{next(self._senders)}"
        return Calls(self._run, folder, self._run.address(), plan)

    def call(
        self,
        target: TakesCalls | str,
        number: str = "9196",
        *,
        hold_s: float = 0.5,
        audio: bool = True,
        headers: Mapping[str, str] | None = None,
        answer_timeout_s: float = 8.0,
    ) -> CallOutcome:
        """One call from beginning to end."""
        load = self.calls(
            target,
            number,
            hold_s=hold_s,
            audio=audio,
            headers=headers,
            answer_timeout_s=answer_timeout_s,
        )
        return load.result().calls[0]
