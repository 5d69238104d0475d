"""The push of an image of one layer of 100 MB to a registry that has nothing of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from registry import Registry

from tests.bench.command import run, time_command
from tests.bench.model import HOLDFAST, Budget, Row, interleave
from tests.bench.payload import collect_files, pack_layers
from tests.bench.stage import Stage

ROUNDS = 3


def measure(stage: Stage) -> Sequence[Row]:
    image = stage.registry.push_layers("pushed:1", pack_layers(list(collect_files(100_000_000)), 1))
    stage.agent.cli("pull", image)
    contenders: dict[str, Callable[[], float]] = {
        HOLDFAST: lambda: _time_push(stage, lambda target: stage.agent.command("push", image, target))
    }
    for name, peer in stage.peers.items():
        peer.pull(image)
        extra = ["--tls-verify=false"] if name == "podman" else []

        def push(target: str, cli: Sequence[str] = tuple(peer.cli), extra: Sequence[str] = extra) -> list[str]:
            run([*cli, "tag", image, target])
            return [*cli, "push", "-q", *extra, target]

        contenders[name] = lambda push=push: _time_push(stage, push)  # type: ignore[misc]
    samples, failures = interleave(ROUNDS, contenders)
    return [Row("push of a 100 MB layer", "ms", samples, Budget(3, "docker"), failures)]


def _time_push(stage: Stage, command: Callable[[str], list[str]]) -> float:
    """To a registry of its own each time: in one that is known every tool would only link what is there already."""
    with Registry(base=stage.base) as empty:
        line = command(f"{empty.address}/pushed:1")
        os.sync()
        return time_command(line)
