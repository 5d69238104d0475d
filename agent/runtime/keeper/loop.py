"""One epoll loop: callbacks by descriptor, and timers. A callback that raises is reported and survived."""

from __future__ import annotations

import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP
URGENT = select.EPOLLPRI | select.EPOLLERR
EDGE = select.EPOLLET
_BATCH = 256


class Loop:
    """Watches descriptors. Bulk ones (logs) are served after all others, one turn each."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, tuple[Callable[[int], None], bool]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._running = True

    def watch(
        self, descriptor: int, callback: Callable[[int], None], events: int = READ, *, bulk: bool = False
    ) -> None:
        """Call ``callback(events)`` whenever one of ``events`` holds. Raises OSError for what cannot be watched."""
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = (callback, bulk)

    def change(self, descriptor: int, events: int) -> None:
        """Wait for other events of a watched descriptor."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Stop watching; call it before the descriptor is closed. Harmless when it is not watched."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call once after ``seconds``."""
        self._count += 1
        self._timers.append((time.monotonic() + seconds, self._count, callback))
        self._timers.sort()

    def stop(self) -> None:
        """Let ``run`` return after this turn."""
        self._running = False

    def run(self) -> None:
        """Serve until ``stop``."""
        while self._running:
            self.turn()

    def turn(self) -> None:
        """Wait for something to happen and serve it."""
        bulk: list[tuple[int, Callable[[int], None], int]] = []
        for descriptor, events in self._epoll.poll(self._timeout(), _BATCH):
            callback, is_bulk = self._callbacks.get(descriptor, (None, False))
            if callback is not None and is_bulk:
                bulk.append((descriptor, callback, events))
            elif callback is not None:
                _guard(callback, events)
        for descriptor, callback, events in bulk:
            if self._callbacks.get(descriptor, (None, False))[0] is callback:
                _guard(callback, events)
        while self._timers and self._timers[0][0] <= time.monotonic():
            _guard(self._timers.pop(0)[2])

    def _timeout(self) -> float:
        if not self._timers:
            return -1
        return max(self._timers[0][0] - time.monotonic(), 0)


def _guard(callback: Callable[..., None], *arguments: int) -> None:
    try:
        callback(*arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())
