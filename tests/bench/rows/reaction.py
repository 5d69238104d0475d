"""From the write of a file to the start of the container that it asks for, on an agent that is idle."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.bench.marks import Marks
from tests.bench.model import HOLDFAST, Budget, Row, interleave
from tests.bench.stage import Stage

ROUNDS = 10


def measure(stage: Stage) -> Sequence[Row]:
    marks = stage.marks()
    app = stage.fresh("reaction")
    agent = stage.agent
    agent.put(app, stage.image, 1, **agent.marked(marks.directory))
    agent.converge()
    samples, failures = interleave(ROUNDS, {HOLDFAST: lambda: _react(stage, app, marks)})
    agent.drop(app)
    return [Row("change of a file to its effect", "ms", samples, Budget(100), failures)]


def _react(stage: Stage, app: str, marks: Marks) -> float:
    agent = stage.agent
    agent.put(app, stage.image, 1, **agent.marked(marks.directory))
    agent.converge()
    time.sleep(0.3)
    marks.drain()
    begun = time.perf_counter()
    agent.put(app, stage.image, 2, **agent.marked(marks.directory))
    taken = (marks.wait(1) - begun) * 1e3
    agent.converge()
    return taken
