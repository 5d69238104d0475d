"""From the SIGKILL of a container's process to its replacement running."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence

from tests.bench.marks import COMMAND, Marks
from tests.bench.model import HOLDFAST, Budget, Row, interleave
from tests.bench.peers import Peer
from tests.bench.stage import Stage

ROUNDS = 6
_APP = "crash"


def measure(stage: Stage) -> Sequence[Row]:
    marks = stage.marks()
    contenders: dict[str, Callable[[], float]] = {HOLDFAST: lambda: _ours(stage, marks)}
    for name, peer in stage.peers.items():
        contenders[name] = lambda peer=peer: _peer(stage, peer, marks)  # type: ignore[misc]
    samples, failures = interleave(ROUNDS, contenders)
    return [Row("crash to replacement running", "ms", samples, Budget(30), failures)]


def _ours(stage: Stage, marks: Marks) -> float:
    """A fresh app each time: only a slot's first restart is at once."""
    agent, app = stage.agent, stage.fresh(_APP)
    agent.put(app, stage.image, 1, **agent.marked(marks.directory))
    agent.converge()
    (row,) = [row for row in agent.ps() if row["app"] == app]
    taken = _kill(int(row["pid"]), marks)
    agent.converge()
    agent.drop(app)
    return taken


def _peer(stage: Stage, peer: Peer, marks: Marks) -> float:
    name = stage.fresh()
    options = ["--restart", "always", *peer.mount(marks.directory)]
    peer.run_many([name], stage.image, COMMAND, options)
    marks.wait(1)
    taken = _kill(peer.pid(name), marks)
    peer.remove(name)
    return taken


def _kill(pid: int, marks: Marks) -> float:
    time.sleep(0.3)
    marks.drain()
    begun = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    return (marks.wait(1) - begun) * 1e3
