"""One epoll loop: callbacks by descriptor, calls for the next turn, timers. What raises is reported and survived."""

from __future__ import annotations

import heapq
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class HasFileno(Protocol):
        """A socket, or whatever else has a descriptor to wait on."""

        def fileno(self) -> int:
            """The descriptor."""


_BATCH = 256


class Timer:
    """A call that is due at ``at`` (monotonic seconds) unless cancelled."""

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Do not call."""
        self.call = None

    def __lt__(self, other: Timer) -> bool:
        return self.at < other.at


class Loop:
    """``report`` is called, inside of the except clause, for every callback that raised; it costs nobody else anything.

    Descriptors watched with ``first`` are served before all others of the same turn: so what came there is dealt with
    before anything that came later elsewhere, for callbacks that read once.
    """

    def __init__(self, report: Callable[[], None]) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Callable[[], object], bool]] = {}
        self._timers: list[Timer] = []
        self._calls: list[Callable[[], None]] = []
        self._running = True
        self._report = report

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call in the next turn."""
        self._calls.append(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call after ``seconds``, unless cancelled."""
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, timer)
        return timer

    def watch(
        self, source: HasFileno, ready: Callable[[], object], *, write: bool = False, first: bool = False
    ) -> None:
        """Call ``ready`` whenever there is something to read (``write``: when there is room to write)."""
        descriptor = source.fileno()
        events = select.EPOLLOUT if write else select.EPOLLIN
        if descriptor in self._watched:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
        self._watched[descriptor] = (ready, first)

    def forget(self, source: HasFileno) -> None:
        """Stop watching, before it is closed; one that is not watched is fine."""
        descriptor = source.fileno()
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def stop(self) -> None:
        """Let ``run`` return after this turn."""
        self._running = False

    def run(self) -> None:
        """Serve until ``stop``."""
        while self._running:
            self.turn()

    def close(self) -> None:
        """Let go of the loop's own descriptor; what was watched stays open."""
        self._epoll.close()

    def turn(self) -> None:
        """Wait for something to happen and serve it."""
        wait = self._run_timers()
        found = self._epoll.poll(0 if self._calls else wait, _BATCH)
        ready = [(descriptor, self._watched.get(descriptor)) for descriptor, _ in found]
        for urgent in (True, False):
            for descriptor, entry in ready:
                if entry is not None and entry[1] is urgent and self._watched.get(descriptor) is entry:
                    self._guard(entry[0])
        for _ in range(len(self._calls)):
            self._guard(self._calls.pop(0))

    def _run_timers(self) -> float:
        """Call what is due; the seconds until the next timer, -1 without one."""
        while self._timers:
            timer = self._timers[0]
            wait = timer.at - time.monotonic()
            if timer.call is not None and wait > 0:
                return wait
            heapq.heappop(self._timers)
            if timer.call is not None:
                self._guard(timer.call)
        return -1

    def _guard(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception:
            self._report()
