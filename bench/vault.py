"""Sealing alone and while calls are on; taking it in; seeking; rotating and erasing many keys.

Each part measures for itself and hands back figures; vault_*.py say how.
"""

from __future__ import annotations

from bench import vault_calls, vault_ingest, vault_keys, vault_sealing, vault_seek
from bench.figures import Report

PARTS = (vault_sealing, vault_calls, vault_ingest, vault_seek, vault_keys)


def run(*, quick: bool) -> Report:
    figures = tuple(figure for part in PARTS for figure in part.figures(quick=quick))
    setup = "; ".join(part.SETUP for part in PARTS)
    return Report("vault", quick, setup, figures)
