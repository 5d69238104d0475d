"""Who waits for the end of which step, told by the keeper's events."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from agent.runtime.protocol import KeeperEvent


class Exits:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[KeeperEvent]] = {}

    def expect(self, container_id: str) -> Future[KeeperEvent]:
        """A future for a container's exit event; to be asked for before the container starts."""
        with self._lock:
            return self._waiting.setdefault(container_id, Future())

    def forget(self, container_id: str) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._waiting.pop(container_id, None)

    def resolve(self, event: KeeperEvent) -> None:
        """Take any event; those that nobody waits for are ignored. Never blocks."""
        if event.kind != "exited":
            return
        with self._lock:
            future = self._waiting.pop(event.id, None)
        if future is not None:
            future.set_result(event)
