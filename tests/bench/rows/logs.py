"""A million lines of output: written by a container until it ends, and read back by the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tests.bench.command import run, time_command
from tests.bench.model import HOLDFAST, Row, interleave
from tests.bench.peers import Peer
from tests.bench.stage import Stage

ROUNDS = 3
LINES = 1_000_000
_COMMAND = ("seq", "1", str(LINES))


def measure(stage: Stage) -> Sequence[Row]:
    app, name = stage.fresh("logs"), stage.fresh()
    agent = stage.agent
    agent.put(app, stage.image, 1, command=f"[{', '.join(map(repr, _COMMAND))}]", restart="'no'")
    contenders: dict[str, Callable[[], float]] = {HOLDFAST: lambda: time_command(agent.command("logs", f"{app}-web-1"))}
    for peer in stage.peers.values():
        run(peer.run_command(name, stage.image, _COMMAND))
        contenders[peer.name] = lambda peer=peer: time_command([*peer.cli, "logs", name])  # type: ignore[misc]
    _await_written(stage, app, name)
    samples, failures = interleave(ROUNDS, contenders)
    for peer in stage.peers.values():
        peer.remove(name)
    agent.drop(app)
    return [Row("logs: read a million lines", "ms", samples, None, failures)]


def _await_written(stage: Stage, app: str, name: str) -> None:
    for peer in stage.peers.values():
        run([*peer.cli, "wait", name])
    deadline = time.monotonic() + 120
    while not _is_written(stage, app) and time.monotonic() < deadline:
        time.sleep(0.2)
    for command in [
        stage.agent.command("logs", "--tail", "1", f"{app}-web-1"),
        *map(_last_line(name), stage.peers.values()),
    ]:
        if str(LINES) not in run(command):
            raise RuntimeError(f"{' '.join(command)} does not end with line {LINES}")


def _is_written(stage: Stage, app: str) -> bool:
    return any(row["app"] == app and row["state"] == "exited" for row in stage.agent.ps())


def _last_line(name: str) -> Callable[[Peer], list[str]]:
    return lambda peer: [*peer.cli, "logs", "--tail", "1", name]
