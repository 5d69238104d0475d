"""Pulls of new images from a registry on this machine: one large layer, ten middling ones; and what they take of
memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from tests.bench.command import time_command
from tests.bench.model import HOLDFAST, Budget, Row, Sample, interleave
from tests.bench.payload import collect_files, pack_layers
from tests.bench.processes import read_peak, read_rss, reset_peak
from tests.bench.stage import Stage

ROUNDS = 3
MEMORY_MB = 64


def measure(stage: Stage) -> Sequence[Row]:
    return [
        *_measure_image(stage, "large", 1, 100_000_000, Row("pull of a 100 MB layer", "ms", {}, Budget(3, "docker"))),
        *_measure_image(stage, "wide", 10, 20_000_000, Row("pull of ten 20 MB layers", "ms", {}, Budget(4, "docker"))),
    ]


def _measure_image(stage: Stage, name: str, layers: int, size: int, row: Row) -> Iterator[Row]:
    files = list(collect_files(layers * size))
    references = [
        stage.registry.push_layers(f"{name}:{number}", pack_layers(files, layers)) for number in range(ROUNDS)
    ]
    memory = _PeakMemory(stage)
    contenders = {who: _Puller(stage, who, references, memory) for who in (HOLDFAST, *stage.peers)}
    samples, failures = interleave(ROUNDS, contenders)
    yield Row(row.what, row.unit, samples, row.budget, failures)
    yield Row(f"memory above idle in a {row.what}", "MB", memory.samples(), Budget(MEMORY_MB))


class _Puller:
    """Pulls the next of some images at each call, by one contender's command line; returns milliseconds."""

    def __init__(self, stage: Stage, who: str, references: Iterable[str], memory: _PeakMemory) -> None:
        self._who = who
        self._references = iter(references)
        self._memory = memory
        self._command: Callable[[str], list[str]] = lambda reference: stage.agent.command("pull", reference)
        if who != HOLDFAST:
            extra = ["--tls-verify=false"] if who == "podman" else []
            self._command = lambda reference: [*stage.peers[who].cli, "pull", "-q", *extra, reference]

    def __call__(self) -> float:
        os.sync()  # what others have left to be written is not ours to wait for
        before = self._memory.begin(self._who)
        taken = time_command(self._command(next(self._references)))
        self._memory.end(self._who, before)
        return taken


class _PeakMemory:
    """The most that the daemons of each contender held during a pull, above what they held before it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._found: dict[str, list[float]] = {}

    def _processes(self, who: str) -> set[int]:
        """podman has none."""
        return self._stage.agent.processes() if who == HOLDFAST else self._stage.peers[who].processes()

    def begin(self, who: str) -> dict[int, float]:
        return {pid: read_rss(pid) for pid in self._processes(who) if reset_peak(pid)}

    def end(self, who: str, before: dict[int, float]) -> None:
        if before:
            self._found.setdefault(who, []).append(sum(read_peak(pid) - rss for pid, rss in before.items()))

    def samples(self) -> dict[str, Sample]:
        return {who: Sample(tuple(values)) for who, values in self._found.items()}
