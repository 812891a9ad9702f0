"""Writes every dashboard's JSON into deploy/grafana/json."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.dashboards import control, fleet, media, node, vault

FOLDER = Path(__file__).resolve().parents[1] / "json"


def written() -> dict[str, str]:
    """File name to text, of every dashboard."""
    made = [module.dashboard() for module in (fleet, node, media, vault, control)]
    return {
        f"{one.uid}.json": json.dumps(one, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
        for one in made
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for name, text in written().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
