"""Containers as the engine's callers see them: start, stop, kill, remove, list, read."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from agent.engine.assembly import compute_limits
from agent.engine.cleanup import Cleaner
from agent.engine.containerlogs import ContainerLogs, LogRange
from agent.engine.endings import Endings
from agent.engine.launch import Launcher
from agent.engine.model import (
    ContainerConfig,
    ContainerEvent,
    ContainerRecord,
    ContainerState,
    ContainerStats,
    ExitStatus,
    Tampering,
)
from agent.engine.parts import Parts
from agent.engine.stopping import Stopper
from agent.engine.table import ContainerTable
from agent.errors import Conflict, NotFound
from agent.kernel.sockdiag import Inbound, count_inbound
from agent.runtime.logreader import LogLine
from agent.runtime.netfigures import read_network
from agent.runtime.protocol import KeeperEvent, KeeperState

_END_BYTES = 2048
_SETTLE_SECONDS = 0.05
EventCallback = Callable[[ContainerEvent], None]


class Containers:
    """All containers of one agent. Thread-safe and blocking, except where a future is returned."""

    def __init__(self, parts: Parts, notify: EventCallback) -> None:
        self._parts = parts
        self._table = ContainerTable(parts.database)
        self._notify = notify
        self._cleaner = Cleaner(parts)
        self._logs = ContainerLogs(parts.layout)
        self._launcher = Launcher(parts, self._table, self._cleaner)
        self._endings = Endings(self._table, self._cleaner, notify)
        self._stopper = Stopper(parts, self._table, self._endings, notify)

    # questions

    def list(self) -> tuple[ContainerRecord, ...]:
        """Every container, oldest first; from memory, the same tuple until something changes."""
        return self._table.all()

    def get(self, name: str) -> ContainerRecord:
        """A container by id, name or id prefix. Raises NotFound or Conflict."""
        return self._table.find(name)

    def ready(self) -> frozenset[str]:
        """The ids that the next containers will have: what could be made of them ahead is on the host already."""
        return self._launcher.ready()

    def stats(self, container_id: str) -> ContainerStats:
        """One reading of a running container's cgroups and links. Raises Conflict when it has ended."""
        record = self._table.get(container_id)
        if record.state.ended:
            raise Conflict(f"{record.name} has ended", reason="NotRunning")
        figures = self._parts.cgroups.read(record.id)
        received, sent = read_network(record.pid)
        return ContainerStats(
            cpu_seconds=figures.cpu_seconds,
            memory_bytes=figures.memory_bytes,
            memory_limit_bytes=figures.memory_limit_bytes,
            pids=figures.pids,
            oom_kills=figures.oom_kills,
            block_read_bytes=figures.block_read_bytes,
            block_written_bytes=figures.block_written_bytes,
            network_received_bytes=received,
            network_sent_bytes=sent,
        )

    def logs(
        self, container_id: str, *, since: float, tail: int | None, follow: bool, stop: threading.Event
    ) -> Iterator[LogLine]:
        """Its output, blocking; with ``follow`` until it has ended or ``stop`` is set. Raises NotFound.

        The newest of its name begins with what is kept of its removed predecessor; ``tail`` counts over both.
        """
        record = self._table.get(container_id)
        wanted = LogRange(since, tail, follow, stop, ended=lambda: self._table.has_ended(record.id))
        newest = all(other.created <= record.created for other in self._table.named(record.name))
        return self._logs.read(record, wanted, predecessor=newest)

    def read_end(self, container_id: str, lines: int) -> str:
        """The last lines of its own output, at most 2 KiB of them, as text. Raises NotFound."""
        record = self._table.get(container_id)
        wanted = LogRange(0.0, lines, follow=False, stop=threading.Event(), ended=lambda: True)
        pieces = self._logs.read(record, wanted, predecessor=False)
        return b"".join(piece.data for piece in pieces)[-_END_BYTES:].decode(errors="replace").strip()

    def count_inbound(self, container_id: str) -> Inbound:
        """The connections that others have made to it. Raises NotFound, Conflict when it has ended, and OSError."""
        record = self._table.get(container_id)
        if record.state.ended or not record.pid:
            raise Conflict(f"{record.name} has ended", reason="NotRunning")
        try:
            namespace = os.open(f"/proc/{record.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Conflict(f"{record.name} has ended", reason="NotRunning") from None
        try:
            return count_inbound(namespace)
        finally:
            os.close(namespace)

    # changes

    def create_start(self, config: ContainerConfig) -> ContainerRecord:
        """Make and start a container. On any error nothing of it is left; raises HoldfastError."""
        return self._launcher.launch(config)

    def stop(self, container_id: str, grace: float | None = None) -> Future[ExitStatus]:
        """Ask a container to end: its stop signal now, SIGKILL for its whole cgroup after ``grace`` seconds.

        The future is done when it has ended; at once when it had already. One that survives SIGKILL for 5 s fails it
        with ContainerWedged; it is killed on, and may end later. Safe to repeat.
        """
        return self._stopper.stop(container_id, grace)

    def put_right(self, container_id: str) -> Tampering | None:
        """Write a running container's limits again where others have changed them; None when nobody has.

        Raises Conflict when it has ended, and what ``Cgroups.limit`` raises.
        """
        record = self._table.get(container_id)
        if record.state is not ContainerState.RUNNING or not record.pid:
            raise Conflict(f"{record.name} does not run", reason="NotRunning")
        limits = compute_limits(record.config)
        changed, inside = self._parts.cgroups.find_changes(record.id, record.pid, limits)
        if self._table.get(container_id).state is not ContainerState.RUNNING:
            return None
        if not inside:
            return Tampering("its processes were taken out of the cgroups that limit them", lost=True)
        if not changed:
            return None
        self._parts.cgroups.limit(record.id, limits)
        return Tampering("; ".join(changed))

    def kill(self, container_id: str, number: int) -> None:
        """Send one signal to a container's first process. Raises Conflict when it does not run."""
        record = self._table.get(container_id)
        if record.state.ended:
            raise Conflict(f"{record.name} has ended", reason="NotRunning")
        self._parts.keeper.kill(record.id, number)

    def remove(self, container_id: str) -> None:
        """Delete an ended container: writable layer, logs, record. Raises Conflict while it runs.

        Its log is kept while there is another container of its name.
        """
        record = self._table.get(container_id)
        if not record.state.ended:
            raise Conflict(f"{record.name} is {record.state}", reason="NotStopped", hint="stop it first")
        self._endings.tidy(record.id)
        self._cleaner.release(record.id)
        if len(self._table.named(record.name)) > 1:
            self._logs.keep(record)
        self._cleaner.discard(record.id)
        self._table.delete([record.id])
        if not self._table.named(record.name):
            self._logs.forget(record.name)
        self._notify(ContainerEvent("removed", record.id, time.time()))

    def remove_all(self) -> None:
        """Stop and remove every container, all at the same time. Raises HoldfastError for the first that stays, when
        all others are gone."""
        self._launcher.rest()
        ends = [(record.id, self.stop(record.id)) for record in self._table.all()]
        faults = [error for _, end in ends if (error := end.exception()) is not None]
        for container_id, end in ends:
            if end.exception() is None:
                with contextlib.suppress(NotFound):
                    self.remove(container_id)
        self._sweep_logs()
        if faults:
            raise faults[0]

    def _sweep_logs(self) -> None:
        self._logs.sweep({record.name for record in self._table.all()})

    # what happens

    def on_keeper_event(self, event: KeeperEvent) -> None:
        """What the keeper says of a container; runs in the client's reader thread, so it must be quick."""
        if event.kind == "started":
            self._begin(event)
        elif event.kind == "exited":
            status = ExitStatus(event.code, event.signal, event.oom, event.at)
            self._endings.finish(event.id, status, ContainerState.EXITED)
        elif event.kind == "oom" and self._table.knows(event.id):
            self._notify(ContainerEvent("oom", event.id, event.at))

    def _begin(self, event: KeeperEvent) -> None:
        changes = {"state": ContainerState.RUNNING, "pid": event.pid, "started": event.at}
        if self._table.advance(event.id, persist=False, **changes) is not None:
            self._notify(ContainerEvent("started", event.id, event.at))
        if self._table.knows(event.id):
            self._endings.deadlines.call_later(_SETTLE_SECONDS, lambda: self._settle(event.id))

    def _settle(self, container_id: str) -> None:
        self._launcher.settle(container_id)
        self._endings.write_soon()

    def recover(self, states: Iterable[KeeperState]) -> None:
        """Bring records and reality together after a start: adopt what lives, close what ended meanwhile."""
        self._launcher.prepare()
        alive = {state.id: state for state in states}
        for record in self._table.all():
            self._recover(record, alive.pop(record.id, None))
        for stray in alive.values():
            if stray.running:
                self._parts.keeper.kill(stray.id, signal.SIGKILL, everyone=True)
            else:
                self._cleaner.release(stray.id)
        self._cleaner.sweep({record.id for record in self._table.all()})
        self._sweep_logs()
        self._launcher.start()

    def _recover(self, record: ContainerRecord, state: KeeperState | None) -> None:
        if state is not None and state.running:
            self._table.advance(record.id, state=ContainerState.RUNNING, pid=state.pid, started=state.started)
            if record.state in (ContainerState.STOPPING, ContainerState.WEDGED):
                self._stopper.ask_to_end(record)
        elif record.state.ended:
            self._endings.tidy_again(record.id)
        elif state is not None and state.exit is not None:
            found = state.exit
            status = ExitStatus(found.code, found.signal, found.oom, found.at)
            self._endings.finish(record.id, status, ContainerState.EXITED)
        elif record.state is ContainerState.CREATED:
            self._cleaner.erase(record.id)
            self._table.delete([record.id])
        else:
            self._endings.finish(record.id, ExitStatus(None, at=time.time()), ContainerState.LOST)

    def close(self) -> None:
        """Stop our threads; containers go on."""
        self._launcher.close()
        self._endings.close()
