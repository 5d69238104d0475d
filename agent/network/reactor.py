"""One thread that waits for everything the network stack listens to: name queries, netlink news, deadlines."""

from __future__ import annotations

import heapq
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from agent.telemetry.logging import get_logger

log = get_logger("network")


class HasFileno(Protocol):
    """A socket, or whatever else has a descriptor to wait on."""

    def fileno(self) -> int:
        """The descriptor."""


class Timer:
    """A call that is due at ``at`` (monotonic seconds) unless cancelled."""

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Do not call."""
        self.call = None

    def __lt__(self, other: Timer) -> bool:
        return self.at < other.at


class Reactor:
    """``call_soon`` may be used from any thread; everything else only from the reactor's own callbacks.

    A callback that raises is logged and costs nobody else anything.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[Timer] = []
        self._running = True
        self._selector.register(self._wake, selectors.EVENT_READ, self._drain)
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is registered stays open but is no longer served."""
        if self._thread.is_alive():
            self.call_soon(self._halt)
            self._thread.join()
        self._selector.close()
        os.close(self._wake)

    def _halt(self) -> None:
        self._running = False

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have ``call`` called by the thread."""
        self._calls.append(call)
        os.eventfd_write(self._wake, 1)

    def call_and_wait(self, call: Callable[[], None]) -> None:
        """Have ``call`` called by the thread, and wait for it. Raises what it raises."""
        done = threading.Event()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                call()
            except BaseException as error:
                failures.append(error)
            finally:
                done.set()

        self.call_soon(run)
        done.wait()
        if failures:
            raise failures[0]

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Have ``call`` called after ``seconds``, unless cancelled."""
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, timer)
        return timer

    def watch(self, source: HasFileno, readable: Callable[[], None], *, write: bool = False) -> None:
        """Call ``readable`` whenever there is something to read (``write``: when there is room to write)."""
        events = selectors.EVENT_WRITE if write else selectors.EVENT_READ
        try:
            self._selector.modify(source, events, readable)
        except KeyError:
            self._selector.register(source, events, readable)

    def forget(self, source: HasFileno) -> None:
        """Stop watching; one that is not watched is fine."""
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):
            pass

    def _run(self) -> None:
        while self._running:
            for key, _ in self._selector.select(self._run_timers()):
                if self._selector.get_map().get(key.fd) is key:
                    _guarded(key.data)

    def _run_timers(self) -> float | None:
        while self._timers:
            timer = self._timers[0]
            wait = timer.at - time.monotonic()
            if timer.call is not None and wait > 0:
                return wait
            heapq.heappop(self._timers)
            if timer.call is not None:
                _guarded(timer.call)
        return None

    def _drain(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
        while self._calls:
            _guarded(self._calls.popleft())


def _guarded(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        log.exception("the network thread survived an error")
