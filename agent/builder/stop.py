"""Why a build should end early: who asked for it does not want it any more, or a part of it has failed."""

from __future__ import annotations

import threading
import time

from agent.builder.faults import BuildCancelled

_POLL_SECONDS = 0.05


class Stop(threading.Event):
    """An event that is set as soon as ``outer`` is, and can be set alone."""

    def __init__(self, outer: threading.Event | None = None) -> None:
        super().__init__()
        self._outer = outer or threading.Event()

    def is_set(self) -> bool:
        """Whether either is set."""
        return super().is_set() or self._outer.is_set()

    def check(self) -> None:
        """Raises BuildCancelled when it is set."""
        if self.is_set():
            raise BuildCancelled("the build was cancelled")

    def wait(self, timeout: float | None = None) -> bool:
        """Until either is set, or ``timeout`` seconds have gone by."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = _POLL_SECONDS if end is None else min(_POLL_SECONDS, end - time.monotonic())
            if left <= 0:
                break
            super().wait(left)
        return self.is_set()
