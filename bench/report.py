"""Writes docs/performance.md from the JSON that `python -m bench` printed.

python -m bench.report FILE... > docs/performance.md

A FILE is the output of `bench all --json`, or of one bench each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_HEAD = """# Performance, as measured

Written by `python -m bench.report` from what `{command}` printed; nothing here is typed in.
How each figure is taken, its limits, and why a goal is missed:
[bench/README.md](../bench/README.md).

| | |
|---|---|
| machine | {machine} |
| date | {date} |
| commit | {commit} |
| load average at the end | {load_average_1m} |
| command | `{command}` |

The machine ran the program, its load and the PBXs together. Ratios within one run carry over to
other machines; times and rates do not.
"""


def markdown(document: dict[str, Any]) -> str:
    """The page for the object of `bench all`. Goals are shown as missed where they are."""
    parts = [_HEAD.format(**document)]
    goals = [
        (name, key, bench[key], goal)
        for name, bench in document["benches"].items()
        for key, goal in bench.get("goals", {}).items()
    ]
    parts.append("## Goals\n\n| bench | figure | measured | goal | |\n|---|---|---|---|---|")
    for name, key, value, goal in goals:
        met = "met" if goal["met"] else "**missed**"
        parts.append(f"| {name} | `{key}` | {_shown(value)} | {goal['goal']} | {met} |")
    for name, bench in document["benches"].items():
        parts.append(f"\n## {name}\n")
        if "error" in bench:
            parts.append(f"Did not run: {bench['error']}")
            continue
        parts.append(f"{bench['setup']}.{' Quick run.' if bench['quick'] else ''}\n")
        parts.append("| figure | value | meaning |\n|---|---|---|")
        parts += [
            f"| `{key}` | {_shown(bench[key])} | {means} |" for key, means in bench["means"].items()
        ]
    return "\n".join(parts) + "\n"


def _shown(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def joined(outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """One document of what `bench all` or single benches printed."""
    if len(outputs) == 1 and "benches" in outputs[0]:
        return outputs[0]
    last = max(outputs, key=lambda each: str(each["date"]))
    commits = sorted({str(each["commit"]) for each in outputs})
    return {
        "command": "python -m bench NAME --json",
        "commit": ", ".join(commits),
        "load_average_1m": ", ".join(f"{o['bench']} {o['load_average_1m']}" for o in outputs),
        "benches": {each["bench"]: each for each in outputs},
    } | {key: last[key] for key in ("machine", "date")}


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    outputs = [json.loads(Path(file).read_text().splitlines()[-1]) for file in sys.argv[1:]]
    print(markdown(joined(outputs)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
