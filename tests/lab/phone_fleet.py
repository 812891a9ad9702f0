"""A fleet on rendered files with its agents, and phones made through the gate."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import yaml

from controller.api.client import Gate, UnixGate
from controller.api.listen import socket_path
from controller.api.shapes import Ask, PhoneAddAsk, PhoneCredentials, Phones, PhoneView
from controller.errors import PbxctlError
from controller.pki.store import renew_due
from tests.lab.asterisk import Asterisk
from tests.lab.baresip import Baresip
from tests.lab.fleet import LabFleet
from tests.lab.freeswitch import FreeSwitch
from tests.lab.lab import Lab
from tests.lab.rendered import put_rendered, start_stunnel
from tests.lab.services import Redis
from tests.lab.until import until

ENCRYPTED = {"signalling": "tls", "media": "srtp-sdes", "control": "tls"}
ROLES = ("driver", "steward", "agent", "gate")


class PhoneFleet(LabFleet):
    """As LabFleet; `begin` renders the nodes and starts the roles.

    encrypted: as `pbxctl init` has it, TLS and SRTP everywhere.
    """

    def __init__(
        self,
        lab: Lab,
        nodes: Mapping[Asterisk | FreeSwitch, str],
        redis: Redis | None,
        *,
        encrypted: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            lab,
            nodes,
            redis,
            calls_max=50,
            user="fleet",
            settings={
                "agent": {"host": lab.address()},
                "numbers": [{"prefix": "95", "service": "echo"}],
                "phones": {"register_s": 20},
                **(settings or {}),
            },
        )
        document = yaml.safe_load(self.config_path.read_text())
        for node in nodes:
            folder = node.folder / ("etc" if isinstance(node, Asterisk) else "conf")
            told = document["nodes"][node.name]
            told["folder"] = str(folder)
            if encrypted:  # beside what the lab itself has at :5060 and :5038
                told |= {"sip": f"{node.address}:5061", "control": f"{node.address}:5039"}
                if isinstance(node, FreeSwitch):
                    told["event_socket"] = f"{node.address}:8021"
        if encrypted:
            document["security"] = ENCRYPTED | (settings or {}).get("security", {})
        self.config_path.write_text(yaml.safe_dump(document))
        if encrypted:
            renew_due(self.config, dt.datetime.now(dt.UTC))

    def begin(self, *agent_options: str) -> None:
        for node in self.nodes.values():
            put_rendered(self.config, node)
            if isinstance(node, FreeSwitch) and self.config.security.control == "tls":
                control = self.config.nodes[node.name].control
                start_stunnel(self.lab, node.name, node.folder / "conf", control)
        for role in ROLES:
            self.start(role, options=agent_options if role == "agent" else ())
        self.until_active()
        until(self._gate_answers, 10, "the gate answers")

    @property
    def gate(self) -> Gate:
        return Gate(UnixGate(socket_path(self.config)))

    def _gate_answers(self) -> bool:
        try:
            self.gate.get(Phones, "phones")
        except PbxctlError:
            return False
        return True

    def add(self, name: str, region: str = "east", display: str = "") -> PhoneCredentials:
        ask = PhoneAddAsk(name=name, region=region, display=display)
        return self.gate.post(PhoneCredentials, "phones", body=ask)

    def rotate(self, name: str) -> PhoneCredentials:
        return self.gate.post(PhoneCredentials, "phones", name, "rotate", body=Ask())

    def remove(self, name: str) -> PhoneView:
        return self.gate.post(PhoneView, "phones", name, "remove", body=Ask())

    def phones(self) -> list[PhoneView]:
        return self.gate.get(Phones, "phones").phones

    def phone_view(self, name: str) -> PhoneView:
        return self.gate.get(PhoneView, "phones", name)

    def until_ready(self, name: str, timeout_s: float = 8) -> None:
        until(lambda: self.phone_view(name).state == "ready", timeout_s, f"{name} on every node")

    def where(self, name: str) -> str:
        """The node where the phone registered last, "" for none."""
        places = self.phone_view(name).at
        return places[0].node if places else ""

    def until_at(self, name: str, node: str, timeout_s: float = 10) -> None:
        until(lambda: self.where(name) == node, timeout_s, f"{name} at {node}")

    def phone(self, name: str, region: str = "east", *, tone_hz: int = 440) -> Baresip:
        """A new phone of the fleet, made, started and registered."""
        made = self.add(name, region)
        self.until_ready(name)
        phone = self.lab.phone(f"phone-{name}", made.files, tone_hz=tone_hz)
        phone.wait_registered()
        until(lambda: self.where(name), 8, f"{name} seen by the fleet")
        return phone
