"""What a benchmark finds: samples of several contenders, and what was promised."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

HOLDFAST = "holdfast"
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Sample:
    """All measurements of one contender in one row, in the row's unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The 10th and the 90th percentile."""
        ordered = sorted(self.values)
        last = len(ordered) - 1
        return ordered[math.floor(last * 0.1)], ordered[math.ceil(last * 0.9)]


@dataclass(frozen=True)
class Budget:
    """A promise: at most ``limit`` in the row's unit, or with ``peer`` at least ``limit`` times as fast as it."""

    limit: float
    peer: str = ""

    def holds(self, samples: Mapping[str, Sample]) -> bool | None:
        """None: it cannot be said, because the peer is not here."""
        ours = samples.get(HOLDFAST)
        if ours is None or (self.peer and self.peer not in samples):
            return None
        if self.peer:
            return samples[self.peer].median >= self.limit * ours.median
        return ours.median <= self.limit

    def render(self, unit: str) -> str:
        return f">= {self.limit:g}x {self.peer}" if self.peer else f"<= {self.limit:g} {unit}"


@dataclass(frozen=True)
class Row:
    """One line of the table. ``samples`` are by contender; ``failures`` say why one has none."""

    what: str
    unit: str
    samples: Mapping[str, Sample]
    budget: Budget | None = None
    failures: Mapping[str, str] = field(default_factory=dict)

    def ratio(self, peer: str) -> float | None:
        """How many times as much the peer needs."""
        ours, theirs = self.samples.get(HOLDFAST), self.samples.get(peer)
        return theirs.median / ours.median if ours and theirs and ours.median else None


def interleave(rounds: int, contenders: Mapping[str, Callable[[], float]]) -> tuple[dict[str, Sample], dict[str, str]]:
    """Measure all contenders in turn, round after round, so that each sees the same conditions of the machine.

    Between two the machine may finish what it does behind their backs. One that fails is left out from then on; its
    failure is told.
    """
    values: dict[str, list[float]] = {name: [] for name in contenders}
    failures: dict[str, str] = {}
    for _ in range(rounds):
        for name, measure in contenders.items():
            if name in failures:
                continue
            try:
                values[name].append(measure())
            except (OSError, RuntimeError, AssertionError) as error:
                failures[name] = f"{type(error).__name__}: {error}"
            time.sleep(_PAUSE_SECONDS)
    return {name: Sample(tuple(found)) for name, found in values.items() if found}, failures
