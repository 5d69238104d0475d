"""Keeps a few sandboxes ready for each network, so that attaching a container need not wait for the kernel.

Making one takes a processor for some milliseconds, which a container that is just being started needs more: while
there is one left, the next is made a moment after the last was taken.

They live by descriptors only: when this process dies, however it dies, the kernel removes them with their links.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from agent.errors import HoldfastError
from agent.network.sandboxes import Namespace
from agent.telemetry.logging import get_logger
from agent.values import frozen

log = get_logger("network")
PER_NETWORK, IN_ALL = 3, 48
_QUIET_SECONDS = 0.05


@frozen
class Ready:
    """A sandbox that waits for its container, with its address in the network."""

    address: str
    namespace: Namespace


class ReadyPool:
    """Thread-safe. ``make`` makes one for a network, ``scrap`` takes one back; both run without a lock."""

    def __init__(self, make: Callable[[str], Ready], scrap: Callable[[str, Ready], None]) -> None:
        self._make = make
        self._scrap = scrap
        self._condition = threading.Condition()
        self._ready: dict[str, deque[Ready]] = {}
        self._wanted: dict[str, int] = {}
        self._busy = ""
        self._taken = -_QUIET_SECONDS
        self._closed = False
        self._thread = threading.Thread(target=self._refill, name="sandboxes", daemon=True)

    def start(self) -> None:
        """Start the thread that makes them."""
        self._thread.start()

    def want(self, network: str, count: int = PER_NETWORK) -> None:
        """Keep ``count`` ready for a network, within the bounds of IN_ALL."""
        with self._condition:
            self._wanted[network] = min(count, IN_ALL)
            self._ready.setdefault(network, deque())
            self._condition.notify_all()

    def take(self, network: str) -> Ready | None:
        """One that is ready, None when there is none at the moment; another is made after ``replenish``."""
        with self._condition:
            waiting = self._ready.get(network)
            found = waiting.popleft() if waiting else None
            self._taken = time.monotonic()
            if network in self._wanted:
                self._wanted[network] = max(PER_NETWORK, self._wanted[network] - 1)
        return found

    def replenish(self) -> None:
        """Make others for those that were taken: not before their containers run, whose way it would be in."""
        with self._condition:
            self._condition.notify_all()

    def drop(self, network: str) -> None:
        """Scrap what is ready for a network and make no more; returns when none is in the making."""
        with self._condition:
            self._wanted.pop(network, None)
            self._condition.wait_for(lambda: self._busy != network)
            scrapped = self._ready.pop(network, deque())
        for ready in scrapped:
            self._scrap(network, ready)

    def close(self) -> None:
        """Scrap everything and stop."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        for network in tuple(self._ready):
            self.drop(network)

    def _refill(self) -> None:
        while True:
            with self._condition:
                self._busy = ""
                self._condition.notify_all()
                self._await_need()
                if self._closed:
                    return
                self._busy = self._next_short() or ""
            if self._busy:
                self._make_one(self._busy)

    def _await_need(self) -> None:
        """Wait until one is short, and for a quiet moment while some are left."""
        self._condition.wait_for(lambda: self._closed or self._next_short() is not None)
        while not self._closed and (network := self._next_short()) is not None and self._ready[network]:
            rest = self._taken + _QUIET_SECONDS - time.monotonic()
            if rest <= 0:
                return
            self._condition.wait(rest)

    def _next_short(self) -> str | None:
        if sum(map(len, self._ready.values())) >= IN_ALL:
            return None
        short = (network for network, count in self._wanted.items() if len(self._ready[network]) < count)
        return next(short, None)

    def _make_one(self, network: str) -> None:
        try:
            ready = self._make(network)
        except (OSError, HoldfastError) as error:
            log.warning("no sandbox could be made ahead", network=network, error=str(error))
            with self._condition:
                if network in self._wanted:
                    self._wanted[network] = 0
            return
        with self._condition:
            self._ready.setdefault(network, deque()).append(ready)
