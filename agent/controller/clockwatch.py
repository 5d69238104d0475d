"""Noticing that the clock was set: what the time of day says has gone by is not what has gone by."""

from __future__ import annotations

from collections.abc import Callable

SLACK_SECONDS = 2.0


class ClockWatch:
    """Compares the ``clock`` that people set with the ``steady`` one that nobody can."""

    def __init__(self, clock: Callable[[], float], steady: Callable[[], float]) -> None:
        self._clock, self._steady = clock, steady
        self._apart = clock() - steady()

    def was_set(self) -> bool:
        """Whether it was set, by more than a correction, since the last call."""
        before, self._apart = self._apart, self._clock() - self._steady()
        return abs(self._apart - before) > SLACK_SECONDS
