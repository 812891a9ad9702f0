"""What all dashboards look like: their variables, and the few kinds of panels."""

from __future__ import annotations

from collections.abc import Iterable

from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model

TAG = "pbxctl"
WIDTH, HEIGHT = 8, 8
NUMBER_WIDTH, NUMBER_HEIGHT = 4, 4
DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")

Panel = timeseries.Panel | stat.Panel
#: PromQL and what its series are called
Query = tuple[str, str]


def lines(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    stacked: bool = False,
    most: float | None = None,
) -> timeseries.Panel:
    """Series over time. unit: of Grafana. most: the axis' end, where the value has one."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(DATASOURCE)
        .unit(unit)
        .min(0)
        .height(HEIGHT)
        .span(WIDTH)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            common_builder.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
        )
        .tooltip(
            common_builder.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel.stacking(
            common_builder.StackingConfig().mode(common.StackingMode.NORMAL).group("all")
        )
    if most is not None:
        panel.max(most)
    for ref, (expr, legend) in zip("ABCDEF", queries, strict=False):
        panel.with_target(
            prometheus.Dataquery().ref_id(ref).expr(expr).legend_format(legend).range()
        )
    return panel


def number(
    title: str,
    text: str,
    expr: str,
    *,
    unit: str = "short",
    decimals: int = 0,
    red_from: float | None = None,
    red_below: float | None = None,
) -> stat.Panel:
    """One value as of now, red where it should not be."""
    steps = [model.Threshold(value=None, color="green" if red_below is None else "red")]
    if red_from is not None:
        steps.append(model.Threshold(value=red_from, color="red"))
    if red_below is not None:
        steps.append(model.Threshold(value=red_below, color="green"))
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(DATASOURCE)
        .unit(unit)
        .decimals(decimals)
        .height(NUMBER_HEIGHT)
        .span(NUMBER_WIDTH)
        .graph_mode(common.BigValueGraphMode.NONE)
        .thresholds(builder.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common_builder.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(prometheus.Dataquery().ref_id("A").expr(expr).instant())
    )


def dashboard(
    uid: str, title: str, text: str, panels: Iterable[Panel], *, window: str = "now-1h"
) -> model.Dashboard:
    made = (
        builder.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags([TAG])
        .refresh("10s")
        .time(window, "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            builder.DashboardLink("pbxctl")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in _variables():
        made.with_variable(variable)
    for panel in panels:
        made.with_panel(panel)
    return made.build()


def _variables() -> Iterable[builder.DatasourceVariable | builder.QueryVariable]:
    yield builder.DatasourceVariable("datasource").label("Datasource").type("prometheus")
    # "All" jobs are those listed: a pattern for any would take in what others scrape.
    yield _labels("job", "pbxctl_build_info")
    yield _labels("region", 'pbxctl_node_state{job=~"$job"}').all_value(".*")
    yield _labels("node", 'pbxctl_node_state{job=~"$job",region=~"$region"}').all_value(".*")


def _labels(name: str, series: str) -> builder.QueryVariable:
    return (
        builder.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query(f"label_values({series}, {name})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
