"""The rows of the table: each module has ``measure(stage)``, which returns one or more rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tests.bench.model import Row
from tests.bench.rows import build, commands, crash, idle, logs, loop, pull, push, reaction, rollout, scale, start
from tests.bench.stage import Stage

Measure = Callable[[Stage], Sequence[Row]]

ROWS: Mapping[str, Measure] = {
    "start": start.measure,
    "scale": scale.measure,
    "crash": crash.measure,
    "reaction": reaction.measure,
    "rollout": rollout.measure,
    "loop": loop.measure,
    "pull": pull.measure,
    "push": push.measure,
    "build": build.measure,
    "idle": idle.measure,
    "logs": logs.measure,
    "commands": commands.measure,
}
