"""An agent below the API's seam: a controller and an engine in memory, processes of this host for exec."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import queue
import subprocess
import tempfile
import termios
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from agent.api.server import ApiServer
from agent.controller.telling.callers import Callers
from agent.engine.execs import ExecHandle, ExecOptions
from agent.engine.model import (
    ContainerConfig,
    ContainerEvent,
    ContainerRecord,
    ContainerState,
    ContainerStats,
    ExitStatus,
    ImageRecord,
    Owner,
)
from agent.errors import NotFound, Waiting
from agent.image.progress import PullProgress
from agent.image.transfer.pusher import PushReport
from agent.oci.digest import compute_digest
from agent.telemetry.events import EventLog
from agent.telemetry.metrics import Metrics
from agent.telemetry.samples import StoreSample


def make_record(name: str, app: str = "shop", service: str = "web", slot: int = 1) -> ContainerRecord:
    owner = Owner(app, service, slot, "rev", "digest")
    config = ContainerConfig(name=name, image="sha256:" + "1" * 64, owner=owner)
    number = sum(name.encode()) * 7919
    return ContainerRecord(f"{number:064x}", config, ContainerState.RUNNING, pid=1, started=1000.0, created=999.0)


@dataclass(frozen=True)
class Line:
    stream: int
    at: float
    data: bytes


class FakeController:
    def __init__(self) -> None:
        self.synced = True
        self.apps: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.actions: list[dict[str, Any]] = []
        self.warnings: list[dict[str, Any]] = []
        self.callers = Callers()
        self.steps: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.converged = False
        self.told = threading.Event()
        self.held = threading.Event()
        self.held.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.waiting = 0

    def status(self) -> Mapping[str, Any]:
        return {"apps": self.apps}

    def containers(self) -> Sequence[Mapping[str, Any]]:
        return self.rows

    def pending_plan(self) -> Mapping[str, Any]:
        return {"apps": [{"name": "shop", "actions": self.actions, "warnings": self.warnings}]}

    def why(self, target: str) -> Sequence[Mapping[str, Any]]:
        self.calls.append(f"why {target}")
        if not self.steps:
            raise NotFound(f"nothing is known of {target}")
        return self.steps

    async def look(self) -> None:
        self.calls.append("look")

    async def sync(self) -> None:
        self.calls.append("sync")

    async def down(self) -> None:
        self.calls.append("down")
        await asyncio.to_thread(self.held.wait)
        self.rows = []

    async def wait_converged(self, seconds: float) -> bool:
        self.waiting += 1
        try:
            return await asyncio.to_thread(self.told.wait, seconds)
        finally:
            self.waiting -= 1


@dataclass
class FakeContainers:
    records: list[ContainerRecord] = field(default_factory=list)
    lines: dict[str, list[Line]] = field(default_factory=dict)
    live: defaultdict[str, queue.Queue[Line | None]] = field(default_factory=lambda: defaultdict(queue.Queue))
    readers: int = 0

    def list(self) -> tuple[ContainerRecord, ...]:
        return tuple(self.records)

    def get(self, name: str) -> ContainerRecord:
        for record in self.records:
            if name in (record.id, record.name):
                return record
        raise NotFound(f"no container {name}")

    def stats(self, container_id: str) -> ContainerStats:
        if container_id not in {record.id for record in self.records}:
            raise NotFound("gone")
        return ContainerStats(cpu_seconds=1.5, memory_bytes=4096, pids=2, oom_kills=1)

    def logs(
        self, container_id: str, *, since: float, tail: int | None, follow: bool, stop: threading.Event
    ) -> Iterator[Line]:
        self.readers += 1
        try:
            lines = [line for line in self.lines.get(container_id, []) if line.at >= since]
            yield from lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]
            while follow and not stop.is_set():
                try:
                    line = self.live[container_id].get(timeout=0.05)
                except queue.Empty:
                    continue
                if line is None:
                    return
                yield line
        finally:
            self.readers -= 1


class FakeExecs:
    """Runs the command on this host: real pipes, a real terminal, a real exit."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.sizes: list[tuple[int, int]] = []
        self.options: list[ExecOptions] = []

    def start(self, record: ContainerRecord, args: Sequence[str], options: ExecOptions) -> ExecHandle:
        if args[0] == "absent":
            raise NotFound("absent is not there", reason="CommandNotFound")
        self.options.append(options)
        if options.terminal:
            master, slave = pty.openpty()
            process = subprocess.Popen(
                args, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=_take_terminal
            )
            os.close(slave)
            descriptors = (master, master, master)
        else:
            stdin = subprocess.PIPE if options.stdin else subprocess.DEVNULL
            process = subprocess.Popen(
                args, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, bufsize=0
            )
            assert process.stdout is not None
            assert process.stderr is not None
            descriptors = (
                _take(process.stdin),
                _take(process.stdout),
                _take(process.stderr),
            )
        exec_id = str(len(self.processes))
        self.processes[exec_id] = process
        ended: Future[ExitStatus] = Future()
        threading.Thread(target=_reap, args=(process, ended), daemon=True).start()
        return ExecHandle(exec_id, record.id, *descriptors, ended)

    def resize(self, handle: ExecHandle, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))

    def kill(self, handle: ExecHandle, number: int) -> None:
        self.processes[handle.id].send_signal(number)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _take(stream: Any) -> int:
    """The descriptor of a pipe, as its new owner."""
    if stream is None:
        return -1
    descriptor = os.dup(stream.fileno())
    stream.close()
    return descriptor


def _reap(process: subprocess.Popen[bytes], ended: Future[ExitStatus]) -> None:
    code = process.wait()
    ended.set_result(ExitStatus(code) if code >= 0 else ExitStatus(None, -code))


class FakeImages:
    def __init__(self) -> None:
        self.records = [ImageRecord("sha256:" + "a" * 64, "sha256:" + "b" * 64, ("shop/web:1",), 1_500_000, "", 1.0)]
        self.cancelled = threading.Event()
        self.failure: Exception | None = None
        self.endless = False

    def sample(self) -> StoreSample:
        return StoreSample(len(self.records), 10, 20, 0, 0, 0, 0)

    def list(self) -> tuple[ImageRecord, ...]:
        return tuple(self.records)

    def pull(
        self,
        reference: str,
        *,
        policy: str = "missing",
        platform: str | None = None,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        assert progress is not None
        assert cancel is not None
        progress(PullProgress(reference, "pulling", 2, 1, 100, 50, 10.0))
        if self.endless:
            cancel.wait()
            self.cancelled.set()
            raise Waiting("cancelled")
        if self.failure:
            raise self.failure
        return self.records[0]

    def push(
        self,
        image: str,
        target: str | None = None,
        *,
        all_platforms: bool = False,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> PushReport:
        assert progress is not None
        progress(PullProgress(target or image, "pushing", 2, 1, 100, 50, 10.0))
        if self.failure:
            raise self.failure
        return PushReport(target or image, compute_digest(b""), 1, 0, 1, 50)


class FakeEngine:
    def __init__(self) -> None:
        self.containers = FakeContainers()
        self.execs = FakeExecs()
        self.images = FakeImages()
        self.connected = True
        self.callbacks: list[Callable[[ContainerEvent], None]] = []

    def subscribe(self, callback: Callable[[ContainerEvent], None]) -> None:
        self.callbacks.append(callback)

    def announce(self, event: ContainerEvent) -> None:
        for callback in self.callbacks:
            callback(event)


class FakeAgent:
    """The API server on an event loop in a thread, and handles to everything behind it."""

    def __init__(self) -> None:
        self.controller = FakeController()
        self.engine = FakeEngine()
        self.events = EventLog()
        self.metrics = Metrics("test")
        self.data_root = Path(tempfile.mkdtemp(prefix="holdfast-api-"))
        self.socket = self.data_root / "holdfast.sock"
        self.host = f"unix://{self.socket}"
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.server: ApiServer | None = None

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def add(self, name: str, **owner: Any) -> ContainerRecord:
        record = make_record(name, **owner)
        self.engine.containers.records.append(record)
        return record

    def stop_container(self, name: str) -> None:
        records = self.engine.containers.records
        records[:] = [replace(r, state=ContainerState.EXITED) if r.name == name else r for r in records]

    def __enter__(self) -> FakeAgent:
        self._thread.start()
        self.server = ApiServer(self, [self.host], "127.0.0.1:0")
        self.run(self.server.start())
        return self

    @property
    def metrics_port(self) -> int:
        assert self.server is not None
        port: int = self.server.metrics_port
        return port

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.server is not None
        self.run(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        assert not self.socket.exists()
        self.data_root.rmdir()
