"""How many steps are carried out at the same time, over all builds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE_SECONDS = 0.1


class Slots:
    """Thread-safe. Whoever holds a slot waits for nobody who still needs one."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    @contextmanager
    def taken(self, check: Callable[[], None]) -> Iterator[None]:
        """Hold a slot; ``check`` is called while waiting for one, and may raise."""
        while not self._free.acquire(timeout=_PATIENCE_SECONDS):
            check()
        try:
            yield
        finally:
            self._free.release()
