"""Work that several callers want at once is done once; and what is in use is not cleaned away."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from agent.image.progress import PullTracker

_LOOK_SECONDS = 1.0


class Flights:
    """One piece of work a key at a time: who comes second waits, then looks whether anything is left to do."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._running: set[str] = set()

    @contextmanager
    def alone(self, keys: Iterable[str], tracker: PullTracker) -> Iterator[None]:
        """Hold all ``keys``; waits for others who hold any. Raises PullCancelled: at ``wake``, or within a second."""
        wanted = set(keys)
        with self._condition:
            while self._running & wanted:
                tracker.check()
                self._condition.wait(_LOOK_SECONDS)
            tracker.check()
            self._running |= wanted
        try:
            yield
        finally:
            with self._condition:
                self._running -= wanted
                self._condition.notify_all()

    def wake(self) -> None:
        """Let those who wait look at their cancellation."""
        with self._condition:
            self._condition.notify_all()


class Leases:
    """What pulls under way need: never removed by the clean-up of another pull or by pruning."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held: Counter[str] = Counter()

    @contextmanager
    def held(self, keys: Iterable[str]) -> Iterator[None]:
        """Keep ``keys`` (digests and chain IDs) from being removed."""
        wanted = list(keys)
        with self._lock:
            self._held.update(wanted)
        try:
            yield
        finally:
            with self._lock:
                for key in wanted:
                    self._held[key] -= 1
                    if not self._held[key]:
                        del self._held[key]

    def while_free(self, keys: Iterable[str], remove: Callable[[set[str]], None]) -> None:
        """Call ``remove`` with those of ``keys`` that nobody holds; nobody can take one meanwhile."""
        with self._lock:
            remove({key for key in keys if key not in self._held})
