"""Builds: a small file of three RUN steps without a cache, and one of ten steps of which nothing has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.engine.model import BuildConfig
from tests.bench.command import time_command
from tests.bench.model import HOLDFAST, Budget, Row, Sample, interleave
from tests.bench.stage import Stage

ROUNDS = 5
REBUILDS = 30
_STEPS = "RUN echo one > /one\nRUN mkdir /two && cp /bin/busybox /two/\nRUN ls -l /two > /three\n"
_TEN = (
    "ENV A=1\nWORKDIR /srv/app\nCOPY file file\nRUN echo 1 > /1\nRUN echo 2 > /2\nCOPY --chown=1000 file /owned\n"
    "LABEL a=b\nRUN echo 3 > /3\nUSER 1000\n"
)


def measure(stage: Stage) -> Sequence[Row]:
    return [_measure_fresh(stage), _measure_again(stage)]


def _write(stage: Stage, steps: str) -> Path:
    context = stage.base / stage.fresh("context")
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {stage.image}\n{steps}")
    (context / "file").write_bytes(b"x" * 10_000)
    return context


def _measure_fresh(stage: Stage) -> Row:
    context = str(_write(stage, _STEPS))
    contenders: dict[str, Callable[[], float]] = {
        HOLDFAST: lambda: time_command(stage.agent.command("build", "--no-cache", "-q", "-t", "bench/built", context))
    }
    for name, peer in stage.peers.items():
        extra = ["--layers=false"] if name == "podman" else []  # it trips over images without a history
        command = [*peer.cli, "build", "--no-cache", *extra, "-q", "-t", "bench/built", context]
        contenders[name] = lambda command=command: time_command(command)  # type: ignore[misc]
    samples, failures = interleave(ROUNDS, contenders)
    return Row("build of 3 RUN steps, no cache", "ms", samples, Budget(5, "docker"), failures)


def _measure_again(stage: Stage) -> Row:
    """In the agent: what its builder takes when every layer is there."""
    stage.engine.images.pull(stage.image)
    config = BuildConfig(str(_write(stage, _TEN)), "bench/again:1")
    time.sleep(2.1)  # files that have just changed are hashed every time
    stage.engine.images.build(config)
    samples: Mapping[str, Sample] = {HOLDFAST: Sample(tuple(_time(stage, config) for _ in range(REBUILDS)))}
    return Row("unchanged rebuild of 10 steps, in the agent", "ms", samples, Budget(50))


def _time(stage: Stage, config: BuildConfig) -> float:
    begun = time.perf_counter()
    stage.engine.images.build(config)
    return (time.perf_counter() - begun) * 1e3
