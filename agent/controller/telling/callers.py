"""Who is at work in a container through the API: remembered for a moment, to say who was there when it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from agent.values import frozen

REMEMBERED = 256
MOMENT_SECONDS = 2.0


@frozen
class Caller:
    """A client of the API: of the unix socket ``uid`` and ``pid``, which are the kernel's word, and ``command``, which
    is what the process calls itself; of TCP ``address`` alone, and uid and pid are -1."""

    uid: int = -1
    pid: int = -1
    command: str = ""
    address: str = ""

    def __str__(self) -> str:
        if self.address:
            return f"a client at {self.address}"
        named = f" ({self.command})" if self.command else ""
        return f"uid {self.uid}, pid {self.pid}{named}"

    def as_dict(self) -> dict[str, Any]:
        """The caller as a JSON object."""
        return asdict(self)


@dataclass
class _Visit:
    container: str
    caller: Caller
    what: str
    left: float = 0.0


class Callers:
    """The execs that are under way or ended a moment ago, at most 256 of them. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._visits: list[_Visit] = []

    @contextmanager
    def visit(self, container_id: str, caller: Caller, what: str) -> Iterator[None]:
        """Somebody runs ``what`` in a container for the length of the block."""
        visit = _Visit(container_id, caller, what)
        with self._lock:
            self._visits = [*self._visits, visit][-REMEMBERED:]
        try:
            yield
        finally:
            visit.left = self._clock()

    def find(self, container_id: str) -> tuple[Caller, str] | None:
        """Who came last to a container of those that are there or left a moment ago, and what he ran."""
        now = self._clock()
        with self._lock:
            self._visits = [visit for visit in self._visits if not visit.left or now - visit.left <= MOMENT_SECONDS]
            found = [visit for visit in self._visits if visit.container == container_id]
        return (found[-1].caller, found[-1].what) if found else None
