"""The vault's part that has the keys: its works in the background, each at its own pace.

What fails is tried again at the next turn, and said once for each change of the words.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from controller.errors import PbxctlError
from controller.records.recording_rows import RecordingState
from controller.records.recordings import RecordingIndex
from controller.tasks import is_set
from controller.vault.custody import Custody, now_us
from controller.vault.intake import Intake
from controller.vault.keeper import Keeper
from controller.vault.metrics import HELD, KEPT, KEYS, LOST, OVERDUE

COLLECT_EVERY_S = 0.5
#: what another vault took, and what is silent, is found by looking at everything
FINISH_EVERY_S = 15.0
EXPIRE_EVERY_S = 30.0
#: an agent that was away seals to the X-Wing key that it knew
OLD_PAIR_DAYS = 30

log = logging.getLogger(__name__)


class Keeping:
    def __init__(
        self, keeper: Keeper, custody: Custody, index: RecordingIndex, intake: Intake
    ) -> None:
        self._keeper = keeper
        self._custody = custody
        self._index = index
        self._intake = intake
        self._ended: set[str] = set()
        self._lock = threading.Lock()

    def ended(self, recording: str) -> None:
        """Has it finished at the next turn. From any thread."""
        with self._lock:
            self._ended.add(recording)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and until what is under way has come to its end."""
        work = [
            asyncio.create_task(_repeat(stop, self._take_in, COLLECT_EVERY_S)),
            asyncio.create_task(_repeat(stop, self._keeper.finish, FINISH_EVERY_S)),
            asyncio.create_task(_repeat(stop, self._look_after, EXPIRE_EVERY_S)),
        ]
        await asyncio.wait(work, return_when=asyncio.FIRST_EXCEPTION)
        stop.set()
        await asyncio.wait(work)
        for task in work:
            task.result()

    def _take_in(self) -> None:
        self._keeper.collect()
        with self._lock:
            ended, self._ended = self._ended, set()
        for recording in ended:
            if not self._keeper.finish_one(recording):
                self.ended(recording)

    def _look_after(self) -> None:
        if self._custody.keyring.rotating:  # a vault that was killed had begun it
            for progress in self._custody.slots.rotate(now_us()):
                log.info("rotation goes on: %d of %d", progress.done, progress.slots)
        self._keeper.expire()
        older_than_us = now_us() - OLD_PAIR_DAYS * 86_400_000_000
        for pair in self._custody.drop_old_pairs(self._intake, older_than_us):
            log.info("X-Wing pair %s is destroyed: nothing is sealed to it any more", pair)
        self._measure()

    def _measure(self) -> None:
        counts = self._index.count(round(time.time() * 1000))
        for state in RecordingState:
            KEPT.labels(state.value).set(counts.states.get(state.value, 0))
        HELD.set(counts.held)
        OVERDUE.set(counts.overdue)
        LOST.set(counts.lost)
        KEYS.labels("slot").set(self._custody.slots.used)
        KEYS.labels("kek").set(len(self._custody.keyring.keks()))
        KEYS.labels("pair").set(len(self._custody.keyring.pairs()))


async def _repeat(stop: asyncio.Event, work: Callable[[], object], every_s: float) -> None:
    problem = ""
    while not stop.is_set():
        try:
            await asyncio.to_thread(work)
            now = ""
        except PbxctlError as error:
            now = error.message
        if now and now != problem:
            log.error("%s", now)
        elif problem and not now:
            log.warning("goes on: %s", problem)
        problem = now
        await is_set(stop, every_s)
