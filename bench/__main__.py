"""`python -m bench [NAME|all] [--json] [--quick]`; without NAME, lists the benches.

The last line with --json is one JSON object. `all` runs each in turn; its object has the benches
by name, and `python -m bench.report FILE` makes the tables of docs/performance.md from it.
Exit code 1 when a bench failed to run; a missed goal is a result, not a failure.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from typing import Any

from bench.figures import Report, circumstances

BENCHES = ("placement", "events", "edge", "detection", "herd", "balance", "srtp", "vault")
#: run by itself too, but part of another: srtp
PARTS = ("phones",)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("name", nargs="?", choices=(*BENCHES, *PARTS, "all"))
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--quick", action="store_true", help="smaller runs: looser figures")
    options = parser.parse_args()
    if options.name is None:
        for name in (*BENCHES, *PARTS):
            summary = (importlib.import_module(f"bench.{name}").__doc__ or "").splitlines()[0]
            print(f"{name:10} {summary}")
        return 0
    names = BENCHES if options.name == "all" else (options.name,)
    documents: dict[str, Any] = {}
    failed = False
    for name in names:
        try:
            report: Report = importlib.import_module(f"bench.{name}").run(quick=options.quick)
        except Exception as error:  # the others still have something to say
            traceback.print_exc()
            documents[name] = {"bench": name, "error": f"{type(error).__name__}: {error}"}
            failed = True
            continue
        documents[name] = report.document()
        print(report.table(), end="\n\n", flush=True, file=sys.stderr if options.json else None)
    if options.json:
        command = " ".join(["python -m bench", *sys.argv[1:]])
        if options.name == "all":
            print(json.dumps({**circumstances(), "command": command, "benches": documents}))
        else:
            print(json.dumps({**documents[options.name], "command": command}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
