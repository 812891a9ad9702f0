"""docker-compose.yml as the tests read it, and what its setup is given."""

from __future__ import annotations

import importlib.util
import ipaddress
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

TOP = Path(__file__).parents[2]
FILE = TOP / "docker-compose.yml"
#: run to their end, so they have no health
ONE_SHOT = {"setup", "doctor", "cli"}


def document() -> dict[str, Any]:
    loaded = yaml.safe_load(FILE.read_text())
    assert isinstance(loaded, dict)
    return loaded


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = document()["services"]
    return found


def zones_of(name: str) -> dict[str, str]:
    """Zone to address, "" where Docker chooses it, of a service or of the pod that it is in."""
    service = services()[name]
    mode = service.get("network_mode", "")
    if mode.startswith("service:"):
        assert "networks" not in service
        return zones_of(mode.removeprefix("service:"))
    if mode:
        assert mode == "none", f"{name} is in no zone of ours: {mode}"
        return {}
    networks = service["networks"]
    if isinstance(networks, list):
        return dict.fromkeys(networks, "")
    return {zone: settings["ipv4_address"] for zone, settings in networks.items()}


def volumes_of(name: str) -> dict[str, tuple[str, bool]]:
    """Where it is mounted: source and whether it is read-only there."""
    found = {}
    for text in services()[name].get("volumes", []):
        source, target, *mode = text.split(":")
        found[target] = source, mode == ["ro"]
    return found


def subnets() -> dict[str, ipaddress.IPv4Network]:
    return {
        zone: ipaddress.IPv4Network(settings["ipam"]["config"][0]["subnet"])
        for zone, settings in document()["networks"].items()
    }


def hand_out() -> ModuleType:
    """docker/pbxctl/hand_out.py, which is in the image and in no package."""
    path = TOP / "docker" / "pbxctl" / "hand_out.py"
    spec = importlib.util.spec_from_file_location("hand_out", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
