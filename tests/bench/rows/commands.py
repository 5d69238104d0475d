"""What a person waits for: ``exec true`` in a running container, and the list of containers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.bench.command import run, time_command
from tests.bench.model import HOLDFAST, Row, interleave
from tests.bench.stage import Stage

ROUNDS = 10


def measure(stage: Stage) -> Sequence[Row]:
    app, name = stage.fresh("exec"), stage.fresh()
    agent = stage.agent
    agent.put(app, stage.image, 1)
    agent.converge()
    execs: dict[str, Callable[[], float]] = {
        HOLDFAST: lambda: time_command(agent.command("exec", f"{app}-web-1", "true"))
    }
    lists: dict[str, Callable[[], float]] = {HOLDFAST: lambda: time_command(agent.command("ps"))}
    for peer in stage.peers.values():
        run(peer.run_command(name, stage.image, ("sleep", "86400")))
        execs[peer.name] = lambda peer=peer: time_command([*peer.cli, "exec", name, "true"])  # type: ignore[misc]
        lists[peer.name] = lambda peer=peer: time_command([*peer.cli, "ps"])  # type: ignore[misc]
    exec_samples, exec_failures = interleave(ROUNDS, execs)
    list_samples, list_failures = interleave(ROUNDS, lists)
    for peer in stage.peers.values():
        peer.remove(name)
    agent.drop(app)
    return [
        Row("exec true, from the command line", "ms", exec_samples, None, exec_failures),
        Row("ps, from the command line", "ms", list_samples, None, list_failures),
    ]
