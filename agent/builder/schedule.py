"""Stages built at the same time, each as soon as those it needs are there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from agent.builder.dockerfile.stages import PlannedStage
from agent.builder.faults import BuildCancelled
from agent.builder.stop import Stop

T = TypeVar("T")
STAGE_THREADS = 4


class Schedule(Generic[T]):
    """Used once. ``build`` makes one stage and may wait, by ``get``, for stages with a lower index.

    Stages begin in the order of the file, so the lowest unfinished one never waits for another: there is always
    progress, however few threads there are.
    """

    def __init__(self, build: Callable[[PlannedStage], T], stop: Stop) -> None:
        self._build = build
        self._stop = stop
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._results: Mapping[int, Future[T]] = {}

    def run(self, stages: Sequence[PlannedStage]) -> T:
        """Build all; the result is that of the last. Of several faults the first is raised, and ends the others."""
        self._results = {stage.index: Future() for stage in stages}
        if len(stages) == 1:
            self._take(stages[0])
        else:
            with ThreadPoolExecutor(min(len(stages), STAGE_THREADS), "build-stage") as pool:
                for stage in stages:
                    pool.submit(self._take, stage)
        if self._error is not None:
            raise self._error
        return self._results[stages[-1].index].result()

    def get(self, index: int) -> T:
        """The result of an earlier stage, waited for. Raises BuildCancelled when there will be none."""
        found = self._results[index]
        if found.exception() is not None:
            raise BuildCancelled(f"stage {index} has failed")
        return found.result()

    def _take(self, stage: PlannedStage) -> None:
        try:
            result = self._build(stage)
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._stop.set()
            self._results[stage.index].set_exception(error)
        else:
            self._results[stage.index].set_result(result)
