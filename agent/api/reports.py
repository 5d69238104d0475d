"""Lines of JSON that threads of the agent leave for a client, and the event loop takes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from agent.api.threads import Wakeup


class Reports:
    """Filled from any thread, under ``_lock``, emptied on the event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: deque[Mapping[str, Any]] = deque()
        self._wakeup = Wakeup()

    def wake(self) -> None:
        """Make ``take`` return."""
        self._wakeup.set()

    async def take(self) -> list[Mapping[str, Any]]:
        """All there is; waits until there is something or ``wake`` was called."""
        await self._wakeup.wait()
        return self.take_now()

    def take_now(self) -> list[Mapping[str, Any]]:
        """All there is, perhaps nothing."""
        with self._lock:
            taken = list(self._lines)
            self._lines.clear()
        return taken
