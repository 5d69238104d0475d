"""What 50 idle containers cost beside their own processes: memory and processor of whoever looks after them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from tests.bench.marks import COMMAND
from tests.bench.model import HOLDFAST, Budget, Row, Sample
from tests.bench.processes import read_pss, read_seconds
from tests.bench.stage import Stage

REPLICAS = 50
_SETTLE, _WATCHED = 5.0, 20.0


def measure(stage: Stage) -> Sequence[Row]:
    marks = stage.marks()
    app = stage.fresh("idle")
    names = [stage.fresh() for _ in range(REPLICAS)]
    failures: dict[str, str] = {}
    stage.agent.put(app, stage.image, REPLICAS, **stage.agent.marked(marks.directory))
    stage.agent.converge(120)
    for peer in stage.peers.values():
        try:
            peer.run_many(names, stage.image, COMMAND, peer.mount(marks.directory))
        except RuntimeError as error:
            failures[peer.name] = str(error)
    time.sleep(_SETTLE)
    looked_after = {HOLDFAST: stage.agent.processes()}
    looked_after.update({name: peer.processes() for name, peer in stage.peers.items() if name not in failures})
    memory = {name: Sample((read_pss(pids),)) for name, pids in looked_after.items()}
    processor = _watch(looked_after)
    for name, peer in stage.peers.items():
        if name not in failures:
            peer.remove(*names)
    stage.agent.drop(app)
    return [
        Row(f"memory (PSS) beside {REPLICAS} idle containers", "MB", memory, Budget(140), failures),
        Row(f"one core's time beside {REPLICAS} idle containers", "%", processor, Budget(1.0), failures),
    ]


def _watch(looked_after: Mapping[str, set[int]]) -> dict[str, Sample]:
    before = {name: read_seconds(pids) for name, pids in looked_after.items()}
    begun = time.perf_counter()
    time.sleep(_WATCHED)
    taken = time.perf_counter() - begun
    return {name: Sample(((read_seconds(pids) - before[name]) / taken * 100,)) for name, pids in looked_after.items()}
