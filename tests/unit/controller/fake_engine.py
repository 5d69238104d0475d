"""An engine in memory: the only fake, below the engine's seam; everything above it in these tests is real."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from fake_capacity import FakeCapacity

from agent.engine.model import (
    BuildConfig,
    ContainerConfig,
    ContainerEvent,
    ContainerRecord,
    ContainerState,
    ExitStatus,
    ImageRecord,
    PublishedPort,
    Tampering,
)
from agent.engine.wedged import ContainerWedged
from agent.errors import Conflict, HoldfastError, NotFound
from agent.kernel.sockdiag import Inbound
from agent.oci.imageconfig import ImageConfig


def image_id(name: str) -> str:
    return "sha256:" + name.encode().hex().ljust(64, "0")[:64]


@dataclass(frozen=True)
class Thing:
    name: str


class FakeContainers:
    """Containers without processes: they run until a test ends them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._records: dict[str, ContainerRecord] = {}
        self._listed: tuple[ContainerRecord, ...] = ()
        self._numbers = itertools.count(1)
        self.callbacks: list[Callable[[ContainerEvent], None]] = []
        self.calls: list[str] = []
        self.failures: dict[str, HoldfastError] = {}
        self.holdups: dict[str, threading.Event] = {}
        self.stubborn: set[str] = set()
        self.tampered: dict[str, Tampering] = {}
        self.waits: dict[str, list[Future[ExitStatus]]] = {}
        self.doomed: dict[str, float] = {}
        self.connections: dict[str, int] = {}
        self.lists = 0

    def list(self) -> tuple[ContainerRecord, ...]:
        self.lists += 1
        return self._listed

    def create_start(self, config: ContainerConfig) -> ContainerRecord:
        self.calls.append(f"start {config.name}")
        if config.name in self.holdups:
            self.holdups[config.name].wait(60)
        if config.name in self.failures:
            raise self.failures[config.name]
        number = next(self._numbers)
        addresses = {network.network: f"10.0.0.{number}" for network in config.networks}
        now = time.time()
        record = ContainerRecord(
            id=f"{number:064x}",
            config=config,
            state=ContainerState.RUNNING,
            pid=1000 + number,
            ip=f"10.0.0.{number}",
            addresses=addresses,
            created=now,
            started=now,
        )
        self.put(record)
        self._notify(ContainerEvent("started", record.id, now))
        if config.image_name in self.doomed:
            self._doom(record.id, self.doomed[config.image_name])
        return record

    def _doom(self, container_id: str, seconds: float) -> None:
        """At once means before anybody can have seen it run: no busy host may take it for one that lives."""
        if seconds:
            threading.Timer(seconds, self._crash, (container_id,)).start()
        else:
            self._crash(container_id)

    def _crash(self, container_id: str) -> None:
        """The end of a container whose image is ``doomed``: that many seconds after its start."""
        with contextlib.suppress(NotFound):
            self.end(container_id, ExitStatus(3))

    def stop(self, container_id: str, grace: float | None = None) -> Future[ExitStatus]:
        self.calls.append(f"stop {self.get(container_id).name}")
        future: Future[ExitStatus] = Future()
        self.waits.setdefault(container_id, []).append(future)
        if container_id not in self.stubborn:
            future.set_result(self.end(container_id, ExitStatus(None, 15)))
        return future

    def put_right(self, container_id: str) -> Tampering | None:
        return self.tampered.pop(container_id, None)

    def wedge(self, container_id: str, trouble: str) -> None:
        """What the engine says of a container that survives SIGKILL."""
        self.put(replace(self.get(container_id), state=ContainerState.WEDGED, trouble=trouble))
        for future in self.waits.pop(container_id, ()):
            future.set_exception(ContainerWedged(trouble))
        self._notify(ContainerEvent("wedged", container_id, time.time()))

    def remove(self, container_id: str) -> None:
        self.calls.append(f"remove {self.get(container_id).name}")
        assert self.get(container_id).state is ContainerState.EXITED
        self.drop(container_id)

    def read_end(self, container_id: str, lines: int) -> str:
        return f"last words of {self.get(container_id).name}"

    def count_inbound(self, container_id: str) -> Inbound:
        if self.get(container_id).exit is not None:
            raise Conflict("it has ended")
        found = self.connections.get(container_id)
        return Inbound(found is not None, found or 0)

    def get(self, container_id: str) -> ContainerRecord:
        if container_id not in self._records:
            raise NotFound(f"no container {container_id}")
        return self._records[container_id]

    def put(self, record: ContainerRecord) -> None:
        with self._lock:
            self._records[record.id] = record
            self._listed = tuple(self._records.values())

    def drop(self, container_id: str) -> None:
        with self._lock:
            del self._records[container_id]
            self._listed = tuple(self._records.values())
        self._notify(ContainerEvent("removed", container_id, time.time()))

    def end(self, container_id: str, status: ExitStatus) -> ExitStatus:
        """The container's process ends."""
        record = self.get(container_id)
        if record.exit is not None:
            return record.exit
        status = replace(status, at=time.time())
        self.put(replace(record, state=ContainerState.EXITED, exit=status, pid=0))
        self._notify(ContainerEvent("exited", container_id, status.at, status))
        return status

    def running(self) -> list[ContainerRecord]:
        return [record for record in self._listed if record.state is ContainerState.RUNNING]

    def named(self, name: str) -> ContainerRecord:
        return next(record for record in self.running() if record.name == name)

    def _notify(self, event: ContainerEvent) -> None:
        for callback in self.callbacks:
            callback(event)


class FakeImages:
    """A registry and an image store in one: ``remote`` can be pulled, ``local`` is there."""

    def __init__(self) -> None:
        self.remote: dict[str, str] = {}
        self.local: dict[str, str] = {}
        self.healthchecks: dict[str, Mapping[str, Any]] = {}
        self.calls: list[str] = []
        self.failures: dict[str, HoldfastError] = {}
        self.pull_failures: dict[str, HoldfastError] = {}
        self.holdups: dict[str, threading.Event] = {}
        self.inputs: dict[str, str] = {}

    def find(self, name_or_id: str) -> ImageRecord | None:
        for name, identifier in self.local.items():
            if name_or_id in (name, identifier):
                return ImageRecord(identifier, "", (name,), 10)
        return None

    def find_admitted(self, reference: str, platform: str | None = None) -> ImageRecord | None:
        return self.find(f"{reference}@{platform}" if platform else reference)

    def file_state(self, source: str) -> str:
        return self.inputs.get(source, "one")

    def config(self, image_id: str) -> ImageConfig:
        return ImageConfig("amd64", "linux", healthcheck=self.healthchecks.get(image_id))

    def pull(
        self,
        reference: str,
        *,
        policy: str = "missing",
        platform: str | None = None,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        reference = f"{reference}@{platform}" if platform else reference
        self.calls.append(f"pull {reference} {policy}")
        if reference in self.holdups:
            self.holdups[reference].wait(60)
        if failure := self.failures.get(reference) or self.pull_failures.get(reference):
            raise failure
        self.local[reference] = self.remote.get(reference, image_id(reference))
        return ImageRecord(self.local[reference], "", (reference,), 10)

    def build(
        self,
        config: BuildConfig,
        *,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        self.calls.append(f"build {config.tag}")
        if config.tag in self.failures:
            raise self.failures[config.tag]
        self.local[config.tag] = image_id(config.tag + self.build_digest(config))
        return ImageRecord(self.local[config.tag], "", (config.tag,), 10)

    def build_digest(self, config: BuildConfig, *, cancel: threading.Event | None = None) -> str:
        return self.inputs.get(config.context, "one")


class FakeNetworks:
    """Remembers what was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.published: tuple[PublishedPort, ...] = ()
        self.refused: dict[tuple[str, int, str], str] = {}
        self.services: dict[str, Mapping[str, tuple[str, ...]]] = {}
        self.calls: list[str] = []
        self.names_fault = ""
        self._names_watch: Callable[[], None] = lambda: None

    def watch_names(self, callback: Callable[[], None]) -> None:
        self._names_watch = callback

    def fail_names(self, fault: str) -> None:
        """What a name server does that cannot run, or, with an empty text, runs again."""
        self.names_fault = fault
        self._names_watch()

    def list(self) -> Sequence[Thing]:
        return tuple(Thing(name) for name in sorted(self.names))

    def ensure(self, name: str, *, internal: bool = False) -> Thing:
        self.calls.append(f"ensure {name}")
        self.names.add(name)
        return Thing(name)

    def remove(self, name: str) -> None:
        self.calls.append(f"remove {name}")
        self.names.discard(name)

    def publish(self, ports: Sequence[PublishedPort]) -> Mapping[tuple[str, int, str], str]:
        self.calls.append("publish")
        self.published = tuple(ports)
        return self.refused

    def set_service_names(self, network: str, names: Mapping[str, tuple[str, ...]]) -> None:
        if network not in self.names:
            raise NotFound(f"no network {network}")
        self.calls.append(f"names {network}")
        self.services[network] = dict(names)


class FakeVolumes:
    """Remembers what was asked for; nothing can remove a volume."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def list(self) -> Sequence[Thing]:
        return tuple(Thing(name) for name in sorted(self.names))

    def ensure(self, name: str, labels: Mapping[str, str]) -> Thing:
        self.names.add(name)
        return Thing(name)


@dataclass
class FakeExec:
    """An exec that has ended, with real pipes."""

    id: str
    stdout_fd: int
    stderr_fd: int
    ended: Future[ExitStatus] = field(default_factory=Future)

    def close(self) -> None:
        os.close(self.stdout_fd)
        os.close(self.stderr_fd)


class FakeEngine:
    """All of it. ``verdicts`` answers probes by container name: an exit code, or None to never end."""

    def __init__(self) -> None:
        self.containers = FakeContainers()
        self.images = FakeImages()
        self.networks = FakeNetworks()
        self.volumes = FakeVolumes()
        self.capacity = FakeCapacity()
        self.verdicts: dict[str, int | None] = {}
        self.execs: dict[str, FakeExec] = {}
        self.killed: list[str] = []

    def exec_start(self, container_id: str, args: Sequence[str]) -> FakeExec:
        name = self.containers.get(container_id).name
        out, out_write = os.pipe()
        err, err_write = os.pipe()
        os.write(out_write, f"probe of {name}".encode())
        os.close(out_write)
        os.close(err_write)
        running = FakeExec(f"exec-{len(self.execs)}", out, err)
        self.execs[running.id] = running
        code = self.verdicts.get(name, 0)
        if code is not None:
            running.ended.set_result(ExitStatus(code))
        return running

    def exec_kill(self, exec_id: str, number: int) -> None:
        self.killed.append(exec_id)
        self.execs[exec_id].ended.set_result(ExitStatus(None, number))

    def subscribe(self, callback: Callable[[ContainerEvent], None]) -> None:
        self.containers.callbacks.append(callback)

    def down(self) -> None:
        found = self.containers.list()
        for record in found:
            self.containers.end(record.id, ExitStatus(0))
        time.sleep(0.05 if found else 0.0)  # the agent sees them in that state
        for record in found:
            self.containers.drop(record.id)
        self.networks.names.clear()
