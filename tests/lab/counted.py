"""How many calls the PBXs had, by their own count: the witness against over-allocation."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.asterisk import Asterisk


class Count:
    """The most calls that each PBX itself had at a time."""

    def __init__(self, nodes: list[Asterisk]) -> None:
        self.most = dict.fromkeys((node.name for node in nodes), 0)
        self._nodes = nodes

    @contextmanager
    def running(self) -> Iterator[None]:
        end = threading.Event()
        thread = threading.Thread(target=self._look, args=(end,))
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _look(self, end: threading.Event) -> None:
        while not end.wait(0.1):
            for node in self._nodes:
                told = node.cli("core show channels count")
                found = re.search(r"(\d+) active call", told)
                self.most[node.name] = max(self.most[node.name], int(found[1]) if found else 0)
