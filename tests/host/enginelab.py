"""An engine in roots of its own, with one image made of this machine's busybox."""

from __future__ import annotations

import os
import queue
import select
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agents import eventually
from apps import DOCKERFILE

from agent.daemon.assembly import assemble
from agent.engine.berths import COUNT as BERTHS
from agent.engine.engine import Engine
from agent.engine.execs import ExecOptions
from agent.engine.model import (
    BuildConfig,
    ContainerConfig,
    ContainerEvent,
    ContainerRecord,
    ExitStatus,
    NetworkAttachment,
    ProcessConfig,
)
from agent.settings import Settings
from agent.store.layout import DataLayout, RunLayout

WAIT = 60.0


class EngineLab:
    """``image`` is the id of a busybox image; containers join ``network``."""

    network = "lab"

    def __init__(self, engine: Engine, root: Path) -> None:
        self.engine = engine
        self.root = root
        self.events: queue.Queue[ContainerEvent] = queue.Queue()
        engine.subscribe(self.events.put)
        self.image = self.build("lab/busybox")
        engine.networks.ensure(self.network)

    def build(self, tag: str, more: str = "") -> str:
        context = self.root / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(DOCKERFILE + more)
        config = BuildConfig(str(context), tag, additional_contexts={"host": "/usr/bin"})
        return self.engine.images.build(config).id

    def config(self, name: str, *command: str, **changes: object) -> ContainerConfig:
        """A container running ``command``; ``changes`` are fields of ContainerConfig."""
        config = ContainerConfig(
            name=name,
            image=self.image,
            process=ProcessConfig(command=command, stop_grace=1.0),
            networks=(NetworkAttachment(self.network),),
        )
        return replace(config, **changes)  # type: ignore[arg-type]

    def start(self, name: str, *command: str, **changes: object) -> ContainerRecord:
        return self.engine.containers.create_start(self.config(name, *command, **changes))

    def shell(self, name: str, script: str, **changes: object) -> ContainerRecord:
        return self.start(name, "sh", "-c", script, **changes)

    def wait(self, record: ContainerRecord) -> ExitStatus:
        """How it ended."""
        while True:
            known = self.engine.containers.get(record.id)
            if known.exit is not None:
                return known.exit
            self.events.get(timeout=WAIT)

    def output(self, record: ContainerRecord) -> str:
        lines = self.engine.containers.logs(record.id, since=0, tail=None, follow=False, stop=threading.Event())
        return b"".join(line.data for line in lines).decode()

    def run(self, name: str, script: str, **changes: object) -> str:
        """What a script prints; it must end with 0. Nothing of the container is left."""
        record = self.shell(name, script, **changes)
        status = self.wait(record)
        output = self.output(record)
        self.engine.containers.remove(record.id)
        assert status.code == 0, f"{status}: {output}"
        return output

    def on_disk(self) -> list[str]:
        """The ids of all containers that have a directory; those made ahead for the next ones are left out."""
        containers = self.engine.containers
        eventually(lambda: len(containers.ready()) == BERTHS, what="the berths")
        ready = containers.ready()
        return sorted(path.name for path in (self.root / "data/containers").iterdir() if path.name not in ready)

    def exec(self, record: ContainerRecord, *args: str) -> tuple[int | None, str]:
        """The exit code of one more process in a container, and what it printed."""
        handle = self.engine.execs.start(self.engine.containers.get(record.id), args, ExecOptions())
        output, open_ends = b"", {handle.stdout_fd, handle.stderr_fd}
        try:
            while open_ends:
                ready = select.select(open_ends, [], [], WAIT)[0]
                assert ready, f"{args} says nothing and does not end"
                for descriptor in ready:
                    chunk = os.read(descriptor, 65536)
                    output += chunk
                    open_ends -= {descriptor} if not chunk else set()
            return handle.ended.result(WAIT).code, output.decode()
        finally:
            handle.close()


@contextmanager
def open_engine(**settings: object) -> Iterator[EngineLab]:
    root = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    wanted = Settings(root / "state", root / "data", root / "run", metrics=None)
    data, run = DataLayout(wanted.data_root), RunLayout(wanted.run_root)
    data.create()
    run.create()
    try:
        with assemble(replace(wanted, **settings), data) as agent:  # type: ignore[arg-type]
            agent.engine.start()
            try:
                yield EngineLab(agent.engine, root)
            finally:
                agent.engine.down()
    finally:
        shutil.rmtree(root)
