"""Tidying up that nobody has to wait for: directories of steps, the network of builds."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush

from agent.telemetry.logging import get_logger

Work = Callable[[], None]
_LINGER_SECONDS = 2.0


class Tidying:
    """Thread-safe: one piece of work after the other, by a thread that is there while there is any, and a little
    longer: the next step is often near."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Work]] = []
        self._numbers = itertools.count()
        self._hurried = 0
        self._busy = False
        self._there = False

    def later(self, work: Work, seconds: float = 0.0) -> None:
        """Do this soon, or after some time, unless somebody waits for it before."""
        with self._changed:
            heappush(self._waiting, (time.monotonic() + seconds, next(self._numbers), work))
            self._changed.notify_all()
            if not self._there:
                self._there = True
                threading.Thread(target=self._run, name="build-tidying", daemon=True).start()

    def wait(self) -> None:
        """Until all that was asked for is done, now."""
        with self._changed:
            self._hurried += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy and not self._waiting)
            self._hurried -= 1

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception as error:
                get_logger("builder").warning("something of a build was left", error=str(error))

    def _next(self) -> Work | None:
        """What to do now; None after a time without work."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            idle = time.monotonic() + _LINGER_SECONDS
            while True:
                due = self._waiting[0][0] if self._waiting else idle
                left = due - time.monotonic()
                if self._waiting and (left <= 0 or self._hurried):
                    self._busy = True
                    return heappop(self._waiting)[2]
                if left <= 0:
                    self._there = False
                    return None
                self._changed.wait(left)
