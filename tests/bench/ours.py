"""Holdfast: a whole agent process with its command line, and an engine in this process for what agents do inside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents import Agent

from agent import __version__
from agent.daemon.assembly import assemble
from agent.engine.engine import Engine
from agent.settings import Settings
from agent.store.layout import DataLayout, RunLayout
from tests.bench.marks import INSIDE, SCRIPT
from tests.bench.processes import find_serving

PROGRAM = (sys.executable, "-m", "agent")


class Holdfast(Agent):
    """An agent whose run root is on a tmpfs, as /run is."""

    version = __version__

    def __init__(self, base: Path) -> None:
        super().__init__(base=base)
        self.run_root = Path("/run/bench-holdfast")

    def command(self, *arguments: str) -> list[str]:
        """A command line to be timed."""
        return [*PROGRAM, arguments[0], "--host", self.host, *arguments[1:]]

    def put(self, app: str, image: str, replicas: int, **more: str) -> None:
        """Write an app of one service ``web``; ``more`` are further keys of it, as YAML in flow style."""
        keys = {"command": "[sleep, '86400']", "stop_grace_period": "0s", **more}
        lines = [f"    {key}: {value}\n" for key, value in keys.items()]
        text = f"services:\n  web:\n    image: {image}\n    deploy: {{replicas: {replicas}}}\n{''.join(lines)}"
        self.write(f"{app}.yaml", text)

    def drop(self, app: str) -> None:
        """Take an app away and wait until nothing of it is left."""
        (self.state / f"{app}.yaml").rename(self.base / f"dropped-{app}.yaml")
        self.converge(120)

    def marked(self, directory: Path) -> dict[str, str]:
        """The keys of a service that tells when it runs."""
        return {"command": f'["sh", "-c", "{SCRIPT}"]', "volumes": f'["{directory}:{INSIDE}"]'}

    def processes(self) -> set[int]:
        """The agent, its keeper, and whatever else serves this run root; what runs in the containers is not ours."""
        assert self.process is not None
        return {self.process.pid, *find_serving(self.run_root)}


@contextmanager
def open_engine(base: Path) -> Iterator[Engine]:
    """The agent's engine in this process, with a keeper of its own."""
    settings = Settings(base / "state", base / "data", Path("/run/bench-engine"), metrics=None)
    data, run = DataLayout(settings.data_root), RunLayout(settings.run_root)
    data.create()
    run.create()
    with assemble(settings, data) as agent:
        agent.engine.start()
        try:
            yield agent.engine
        finally:
            agent.engine.down()
