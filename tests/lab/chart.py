"""Charts as SVG text: what a Grafana panel would show, for pages that have no Grafana."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 34, 50
#: Okabe and Ito's, which colour-blind people can tell apart
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8a00", "#444444")
LEGEND_CHARS, LEGEND_LINES, CHAR_WIDTH = 48, 2, 6.8

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """series: name and points, seconds from the beginning to value. unit: of Grafana.

    most: where the axis ends; what is higher is cut off there.
    """

    title: str
    unit: str
    series: Sequence[tuple[str, Sequence[Point]]]
    stacked: bool = False
    most: float | None = None


def page(
    heading: str,
    note: str,
    charts: Sequence[Chart],
    marks: Sequence[tuple[float, str]],
    end_s: float,
) -> str:
    """Charts, three in a row. marks: seconds, and what happened then."""
    rows = math.ceil(len(charts) / 3)
    width, height = 3 * WIDTH, 46 + rows * HEIGHT + 22
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(LEFT, 26, heading, size=16, weight="bold"),
        _text(LEFT, height - 8, note, fill="#666"),
    ]
    for number, chart in enumerate(charts):
        x, y = number % 3 * WIDTH, 40 + number // 3 * HEIGHT
        parts += [f'<g transform="translate({x},{y})">', *_chart(chart, marks, end_s), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _chart(chart: Chart, marks: Sequence[tuple[float, str]], end_s: float) -> list[str]:
    drawn = _stacked(chart.series) if chart.stacked else list(chart.series)
    highest = max((v for _, points in drawn for _, v in points), default=0.0)
    highest = highest if chart.most is None else min(highest, chart.most)
    step = _step(highest)
    top = max(step, math.ceil(highest / step - 1e-9) * step)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(seconds: float) -> float:
        return LEFT + seconds / end_s * (right - LEFT)

    def y(value: float) -> float:
        return bottom - min(1.0, value / top) * (bottom - TOP)

    title = f"{chart.title}, per second" if chart.unit in {"cps", "Bps"} else chart.title
    parts = [_text(LEFT, 20, title, size=12, weight="bold")]
    for tick in range(round(top / step) + 1):
        value = tick * step
        parts.append(_line(LEFT, y(value), right, y(value), "#e4e4e4"))
        parts.append(_text(LEFT - 5, y(value) + 4, _value(value, chart.unit), anchor="end"))
    parts += [
        _text(x(seconds), bottom + 14, f"{seconds} s", anchor="middle", fill="#777")
        for seconds in range(0, int(end_s) + 1, 10)
    ]
    parts += [
        _line(x(seconds), TOP, x(seconds), bottom, "#999", dash="3 3") for seconds, _ in marks
    ]
    order = list(enumerate(drawn))
    for number, (_, points) in reversed(order) if chart.stacked else order:
        colour = COLOURS[number % len(COLOURS)]
        for run in _runs(points):
            path = " ".join(f"{x(s):.0f},{y(v):.1f}" for s, v in run)
            if chart.stacked:
                area = f"{x(run[0][0]):.0f},{bottom} {path} {x(run[-1][0]):.0f},{bottom}"
                parts.append(f'<polygon points="{area}" fill="{colour}"/>')
            else:
                parts.append(
                    f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
                )
    return parts + _legend([name for name, _ in drawn], bottom + 30)


def _stacked(series: Sequence[tuple[str, Sequence[Point]]]) -> list[tuple[str, list[Point]]]:
    """Each on top of those before it."""
    below: dict[float, float] = {}
    result = []
    for name, points in series:
        for seconds, value in points:
            below[seconds] = below.get(seconds, 0.0) + value
        result.append((name, [(seconds, below[seconds]) for seconds, _ in points]))
    return result


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Points without a gap between them: where nothing was told nothing is drawn."""
    runs: list[list[Point]] = []
    for point in points:
        if runs and point[0] - runs[-1][-1][0] < 1.5:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _step(highest: float) -> float:
    """Between two lines of the grid, so that there are three to six."""
    if highest <= 0:
        return 1.0
    size: float = 10.0 ** math.floor(math.log10(highest))
    return next(size * part for part in (0.2, 0.5, 1, 2) if highest / (size * part) <= 5.5)


def _value(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    if unit == "s" and value >= 86400:
        return f"{value / 86400:.4g} d"
    if unit == "s" and 0 < value < 1:
        return f"{value * 1000:.4g} ms"
    if unit == "Bps":
        return f"{value / 1000:.4g} kB"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MB"
    return f"{value:.4g} s" if unit == "s" else f"{value:.4g}"


def _legend(names: Sequence[str], y: float) -> list[str]:
    parts, line, chars = [], 0, 0
    for number, name in enumerate(names):
        if chars and chars + len(name) + 4 > LEGEND_CHARS:
            line, chars = line + 1, 0
        if line == LEGEND_LINES:
            break
        x, at = LEFT + chars * CHAR_WIDTH, y + line * 14
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<rect x="{x:.0f}" y="{at - 8:.0f}" width="9" height="9" fill="{colour}"/>')
        parts.append(_text(x + 13, at, name))
        chars += len(name) + 4
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="{colour}"{dashed}/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 0,
    weight: str = "",
    anchor: str = "",
    fill: str = "",
) -> str:
    named = {"font-size": size, "font-weight": weight, "text-anchor": anchor, "fill": fill}
    more = "".join(f' {name}="{value}"' for name, value in named.items() if value)
    return f'<text x="{x:.0f}" y="{y:.0f}"{more}>{escape(text)}</text>'
