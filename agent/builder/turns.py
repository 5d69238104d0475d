"""The same work wanted by several builds at once is done by one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE_SECONDS = 0.1


class Turns:
    """One holder a key. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._held: set[str] = set()

    @contextmanager
    def held(self, key: str, check: Callable[[], None]) -> Iterator[None]:
        """Hold ``key``; ``check`` is called while waiting for others, and may raise."""
        with self._condition:
            while key in self._held:
                check()
                self._condition.wait(_PATIENCE_SECONDS)
            self._held.add(key)
        try:
            yield
        finally:
            with self._condition:
                self._held.discard(key)
                self._condition.notify_all()
