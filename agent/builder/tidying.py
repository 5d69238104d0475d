"""Tidying up that nobody has to wait for: directories of steps, the network of builds."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from agent.telemetry.logging import get_logger

Work = Callable[[], None]


class Tidying:
    """Thread-safe: one piece of work after the other, by a thread that is there while there is any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Work] = deque()
        self._busy = False

    def later(self, work: Work) -> None:
        """Do this soon."""
        with self._changed:
            self._waiting.append(work)
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._run, name="build-tidying", daemon=True).start()

    def wait(self) -> None:
        """Until all that was asked for is done."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._busy = False
                    self._changed.notify_all()
                    return
                work = self._waiting.popleft()
            try:
                work()
            except Exception as error:
                get_logger("builder").warning("something of a build was left", error=str(error))
