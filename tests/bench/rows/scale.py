"""From 0 to 50 replicas: from the write of the file, or the first of 50 parallel ``run -d``, to all running."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tests.bench.marks import COMMAND, Marks
from tests.bench.model import HOLDFAST, Budget, Row, interleave
from tests.bench.peers import Peer
from tests.bench.stage import Stage

ROUNDS = 3
REPLICAS = 50


def measure(stage: Stage) -> Sequence[Row]:
    marks = stage.marks()
    contenders: dict[str, Callable[[], float]] = {HOLDFAST: lambda: _ours(stage, marks)}
    for name, peer in stage.peers.items():
        contenders[name] = lambda peer=peer: _peer(stage, peer, marks)  # type: ignore[misc]
    samples, failures = interleave(ROUNDS, contenders)
    return [Row(f"0 to {REPLICAS} replicas, write to running", "ms", samples, Budget(5, "podman"), failures)]


def _ours(stage: Stage, marks: Marks) -> float:
    agent, app = stage.agent, stage.fresh("scale")
    agent.put(app, stage.image, 0, **agent.marked(marks.directory))
    agent.converge()
    marks.drain()
    begun = time.perf_counter()
    agent.put(app, stage.image, REPLICAS, **agent.marked(marks.directory))
    taken = (marks.wait(REPLICAS) - begun) * 1e3
    agent.converge()
    agent.drop(app)
    return taken


def _peer(stage: Stage, peer: Peer, marks: Marks) -> float:
    names = [stage.fresh() for _ in range(REPLICAS)]
    marks.drain()
    begun = time.perf_counter()
    peer.run_many(names, stage.image, COMMAND, peer.mount(marks.directory))
    taken = (marks.wait(REPLICAS) - begun) * 1e3
    peer.remove(*names)
    return taken
