"""What a build says on its way to a client: everything, unless the client is too slow for all of its output.

The build never waits for a client: it holds a place that others wait for. Output beyond what can be held is left out,
and that is said; steps and their ends never are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from agent.api.reports import Reports
from agent.builder.order import BuildProgress

HELD = 4 << 20
_LINE_WEIGHT = 400


class BuildReports(Reports):
    """Filled from the build's threads, emptied on the event loop."""

    def __init__(self, limit: int = HELD) -> None:
        super().__init__()
        self._limit = limit
        self._held = 0
        self._lost = 0

    def put(self, progress: Any) -> None:
        """Take a BuildProgress, or a PullProgress of a base image."""
        is_build = isinstance(progress, BuildProgress)
        output = is_build and progress.phase == "output"
        with self._lock:
            if output and self._held > self._limit:
                self._lost += 1
                return
            self._lines.append({"build" if is_build else "pull": asdict(progress)})
            self._held += _LINE_WEIGHT + (len(progress.text) if is_build else 0)
        self._wakeup.set()

    def take_now(self) -> list[Mapping[str, Any]]:
        """All there is, perhaps nothing."""
        with self._lock:
            taken, lost = list(self._lines), self._lost
            self._lines.clear()
            self._held = self._lost = 0
        if lost:
            text = f"{lost} lines of output were left out: they came faster than they were read"
            taken.append({"build": asdict(BuildProgress("warning", text))})
        return taken
