"""`make pictures`: docs/pictures from the dashboards' own queries, asked after a real run."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any

from controller.version import VERSION
from tests.lab.chart import Chart, page
from tests.lab.fleet import REPOSITORY
from tests.lab.observed import DASHBOARDS, Observed, observed

FOLDER = REPOSITORY / "docs" / "pictures"
#: dashboard to the panels that are drawn
DRAWN = {
    "fleet": ("Calls", "Load", "Nodes by state", "Placements", "Arrivals", "Room by region"),
    "media": ("Suites", "Encrypted share", "Attested within"),
    "vault": ("Recordings", "Sealed and shipped", "Shipped within"),
    "control": ("Event lag", "Redis answers within", "Agents answer within"),
}


def chart(run: Observed, panel: dict[str, Any]) -> Chart:
    series = []
    for target in panel["targets"]:
        for found in run.over_time(run.filled(target["expr"])):
            name = re.sub(
                r"\{\{(\w+)\}\}",
                lambda match, labels=found.labels: labels.get(match[1], ""),  # type: ignore[misc]
                target["legendFormat"],
            )
            points = [(at - run.began_s, value) for at, value in found.points]
            series.append((name, [(s, v) for s, v in points if math.isfinite(v)]))
    # A series that is 0 all the time only fills the legend.
    told = [(name, points) for name, points in series if any(value for _, value in points)]
    field = panel["fieldConfig"]["defaults"]
    stacked = field["custom"].get("stacking", {}).get("mode") == "normal"
    return Chart(panel["title"], field["unit"], told, stacked, field.get("max"))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with observed() as run:
        what = "; ".join(f"{seconds:.0f} s: {event}" for seconds, event in run.events)
        (refused,) = run.instant("sum(pbxctl_rejects_total)")
        note = (
            f"pbxctl {VERSION}, {dt.datetime.now(dt.UTC):%Y-%m-%d}, {run.placed} calls by TLS and "
            f"SRTP on real PBXs, {refused.points[0][1]:.0f} refused. {what}."
        )
        for name, titles in DRAWN.items():
            dashboard = DASHBOARDS[f"pbxctl-{name}"]
            panels = {panel["title"]: panel for panel in dashboard["panels"]}
            charts = [chart(run, panels[title]) for title in titles]
            text = page(dashboard["title"], note, charts, run.events, run.length_s)
            (FOLDER / f"{name}.svg").write_text(text)


if __name__ == "__main__":
    main()
