"""One container, made and started, with its network: inside the agent, by docker's API, by ``podman run -d``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from agent.engine.model import ContainerConfig, NetworkAttachment, ProcessConfig
from tests.bench.command import time_command
from tests.bench.model import HOLDFAST, Budget, Row, interleave
from tests.bench.stage import Stage

ROUNDS = 15
_COMMAND = ("sleep", "86400")


def measure(stage: Stage) -> Sequence[Row]:
    contenders: dict[str, Callable[[], float]] = {HOLDFAST: lambda: _ours(stage)}
    if stage.docker is not None:
        contenders["docker"] = lambda: _docker(stage)
    if stage.podman is not None:
        contenders["podman"] = lambda: _podman(stage)
    if stage.crun is not None:
        contenders["crun"] = stage.crun.time_run
    _ours(stage)
    samples, failures = interleave(ROUNDS, contenders)
    return [Row("create+start of one container", "ms", samples, Budget(10), failures)]


def _ours(stage: Stage) -> float:
    engine = stage.engine
    config = ContainerConfig(
        name=stage.fresh(),
        image=stage.engine_image,
        process=ProcessConfig(command=_COMMAND, stop_grace=0.0),
        networks=(NetworkAttachment("bench"),),
    )
    begun = time.perf_counter()
    record = engine.containers.create_start(config)
    taken = (time.perf_counter() - begun) * 1e3
    engine.containers.stop(record.id).result(30)
    engine.containers.remove(record.id)
    return taken


def _docker(stage: Stage) -> float:
    assert stage.docker is not None
    name = stage.fresh()
    begun = time.perf_counter()
    stage.docker.create_start(name, stage.image, _COMMAND)
    taken = (time.perf_counter() - begun) * 1e3
    stage.docker.remove(name)
    return taken


def _podman(stage: Stage) -> float:
    assert stage.podman is not None
    name = stage.fresh()
    taken = time_command(stage.podman.run_command(name, stage.image, _COMMAND))
    stage.podman.remove(name)
    return taken
