"""Waiting for containers to end: futures resolved by exit events, and one thread for all stop deadlines."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from agent.engine.model import ExitStatus
from agent.telemetry.logging import get_logger


class ExitWaits:
    """Futures of container ends. An end that is announced before anybody waits is the table's to know."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: dict[str, list[Future[ExitStatus]]] = {}

    def expect(self, container_id: str) -> Future[ExitStatus]:
        """A future for the end of a container that runs now."""
        future: Future[ExitStatus] = Future()
        with self._lock:
            self._waits.setdefault(container_id, []).append(future)
        return future

    def resolve(self, container_id: str, status: ExitStatus) -> None:
        """Tell everybody who waits for this container."""
        with self._lock:
            futures = self._waits.pop(container_id, [])
        for future in futures:
            if not future.done():
                future.set_result(status)

    def fail(self, container_id: str, error: Exception) -> None:
        """Tell everybody who waits for this container that it does not end."""
        with self._lock:
            futures = self._waits.pop(container_id, [])
        for future in futures:
            if not future.done():
                future.set_exception(error)


class Deadlines:
    """Calls back at given moments, all from one thread that sleeps until the next one."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._closed = False
        self._thread: threading.Thread | None = None

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Run ``callback`` after ``seconds`` of the monotonic clock; it must not block."""
        with self._condition:
            entry = (time.monotonic() + seconds, next(self._numbers), callback)
            heapq.heappush(self._heap, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            if self._heap[0] is entry:
                self._condition.notify()

    def close(self) -> None:
        """Forget everything that is still to come."""
        with self._condition:
            self._closed = True
            self._heap.clear()
            self._condition.notify()

    def _run(self) -> None:
        while (callback := self._next()) is not None:
            try:
                callback()
            except Exception as error:  # a fault of ours, which must not keep other containers from being killed
                get_logger("engine").warning("something that was due was not done", exc_info=error)

    def _next(self) -> Callable[[], None] | None:
        with self._condition:
            while not self._closed:
                if not self._heap:
                    self._condition.wait()
                    continue
                rest = self._heap[0][0] - time.monotonic()
                if rest <= 0:
                    return heapq.heappop(self._heap)[2]
                self._condition.wait(rest)
        return None
