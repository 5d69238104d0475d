"""Long pulls and builds say how far they are, short ones nothing."""

from __future__ import annotations

import json
from io import StringIO

import pytest

from agent.builder.order import BuildProgress
from agent.controller.telling.progress import PAUSE_SECONDS, BuildReporter, PullReporter
from agent.image.progress import PullProgress
from agent.telemetry.logging import configure_logging


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stream() -> StringIO:
    stream = StringIO()
    configure_logging(stream, "info", {})
    return stream


def events(stream: StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def pulling(done: int) -> PullProgress:
    eta = (30_000_000 - done) / 5e6
    return PullProgress("app:1", "pulling", 3, done // 10_000_000, 30_000_000, done, bytes_fetched=done, eta=eta)


def test_pull_tells_bytes_layers_and_rate(stream: StringIO) -> None:
    clock = Clock()
    reporter = PullReporter("shop", clock)
    reporter.note(pulling(1_000_000))
    clock.now += PAUSE_SECONDS
    reporter.note(pulling(10_000_000))
    clock.now += 0.1
    reporter.note(pulling(11_000_000))
    clock.now += PAUSE_SECONDS
    reporter.note(pulling(20_500_000))
    assert events(stream) == [
        "pulling app:1: 10.0 of 30.0 MB, 1 of 3 layers, 5.0 MB/s, 4 s left",
        "pulling app:1: 20.5 of 30.0 MB, 2 of 3 layers, 5.0 MB/s, 2 s left",
    ]
    assert reporter.fetched == 20_500_000


def test_build_tells_warnings_at_once_and_steps_when_it_takes_long(stream: StringIO) -> None:
    clock = Clock()
    reporter = BuildReporter("shop", "shop-web", clock)
    reporter.note(BuildProgress("step", "RUN one", 1, 2))
    reporter.note(BuildProgress("warning", "no network"))
    reporter.note(pulling(1))
    clock.now += PAUSE_SECONDS
    reporter.note(BuildProgress("step", "RUN two", 2, 2))
    assert events(stream) == ["building shop-web: no network", "building shop-web: step 2 of 2: RUN two"]
