"""Pulls of new images from a registry on this machine: one large layer, ten middling ones; and what they take of
memory and processor time."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.bench.command import time_command
from tests.bench.model import HOLDFAST, Budget, Row, Sample, interleave
from tests.bench.payload import collect_files, pack_layers
from tests.bench.processes import Helpers, read_peak, read_rss, read_spent, reset_peak
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
    costs = _Costs(stage)
    contenders = {who: _Puller(stage, who, references, costs) for who in (HOLDFAST, *stage.peers)}
    samples, failures = interleave(ROUNDS, contenders)
    yield Row(row.what, row.unit, samples, row.budget, failures)
    yield from costs.rows(row.what)


class _Puller:
    """Pulls the next of some images at each call, by one contender's command line; returns milliseconds."""

    def __init__(self, stage: Stage, who: str, references: Iterable[str], costs: _Costs) -> None:
        self._who = who
        self._references = iter(references)
        self._costs = costs
        self._command: Callable[[str], list[str]] = lambda reference: stage.agent.command("pull", reference)
        if who != HOLDFAST:
            extra = ["--tls-verify=false"] if who == "podman" else []
            self._command = lambda reference: [*stage.peers[who].cli, "pull", "-q", *extra, reference]

    def __call__(self) -> float:
        os.sync()  # what others have left to be written is not ours to wait for
        with self._costs.noted(self._who):
            return time_command(self._command(next(self._references)))


class _Costs:
    """What each contender's pulls took: processor time, its command line's included, and the most memory that its
    daemons and the processes that they started held above what was held before."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._memory: dict[str, list[float]] = {}
        self._processor: dict[str, list[float]] = {}

    @contextmanager
    def noted(self, who: str) -> Iterator[None]:
        pids = self._stage.agent.processes() if who == HOLDFAST else self._stage.peers[who].processes()
        before = {pid: read_rss(pid) for pid in pids if reset_peak(pid)}
        spent = self._read_spent(pids)
        with Helpers(pids) as helpers:
            yield
        self._processor.setdefault(who, []).append(self._read_spent(pids) - spent)
        if before:  # podman has no daemon
            self._memory.setdefault(who, []).append(
                sum(read_peak(pid) - rss for pid, rss in before.items()) + helpers.peak
            )

    def _read_spent(self, pids: set[int]) -> float:
        commands = resource.getrusage(resource.RUSAGE_CHILDREN)
        return read_spent(pids) + commands.ru_utime + commands.ru_stime

    def rows(self, what: str) -> Iterator[Row]:
        yield Row(f"processor time of a {what}", "s", _sample(self._processor))
        yield Row(f"memory above idle in a {what}", "MB", _sample(self._memory), Budget(MEMORY_MB))


def _sample(found: Mapping[str, Sequence[float]]) -> dict[str, Sample]:
    return {who: Sample(tuple(values)) for who, values in found.items()}
