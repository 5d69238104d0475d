"""Containers as the engine's callers see them: start, stop, kill, remove, list, read.

A container's end is noticed by the keeper, announced at once, and tidied up a moment after the announcement, so that
the start of its replacement goes first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from agent.engine.assembly import compute_limits
from agent.engine.cleanup import Cleaner
from agent.engine.containerlogs import ContainerLogs, LogRange
from agent.engine.exits import Deadlines, ExitWaits
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
from agent.engine.process import parse_signal
from agent.engine.table import ContainerTable
from agent.engine.wedged import WEDGED_SECONDS, ContainerWedged, describe_wedged
from agent.errors import Conflict, HoldfastError, NotFound
from agent.kernel.sockdiag import Inbound, count_inbound
from agent.runtime.logreader import LogLine
from agent.runtime.netfigures import read_network
from agent.runtime.protocol import KeeperEvent, KeeperState
from agent.telemetry.logging import get_logger

ENDED = (ContainerState.EXITED, ContainerState.LOST)
_RETRY_SECONDS = 1.0
_END_BYTES = 2048
_WRITE_SECONDS, _TIDY_SECONDS = 0.25, 0.03
EventCallback = Callable[[ContainerEvent], None]


class Containers:
    """All containers of one agent. Thread-safe and blocking, except where a future is returned."""

    def __init__(self, parts: Parts, notify: EventCallback) -> None:
        self._parts = parts
        self._table = ContainerTable(parts.database)
        self._notify = notify
        self._waits = ExitWaits()
        self._untidied: set[str] = set()
        self._deadlines = Deadlines()
        self._cleaner = Cleaner(parts)
        self._logs = ContainerLogs(parts.layout)
        self._launcher = Launcher(parts, self._table, self._cleaner)
        self._janitor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="janitor")
        self._log = get_logger("engine")

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
        if record.state in ENDED:
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
        wanted = LogRange(since, tail, follow, stop, ended=lambda: self._has_ended(record.id))
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
        if record.state in ENDED or not record.pid:
            raise Conflict(f"{record.name} has ended", reason="NotRunning")
        try:
            namespace = os.open(f"/proc/{record.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Conflict(f"{record.name} has ended", reason="NotRunning") from None
        try:
            return count_inbound(namespace)
        finally:
            os.close(namespace)

    def _has_ended(self, container_id: str) -> bool:
        try:
            return self._table.get(container_id).state in ENDED
        except NotFound:
            return True

    # changes

    def create_start(self, config: ContainerConfig) -> ContainerRecord:
        """Make and start a container. On any error nothing of it is left; raises HoldfastError."""
        record = self._launcher.launch(config)
        self._deadlines.call_later(_WRITE_SECONDS, self._submit_write)
        return record

    def stop(self, container_id: str, grace: float | None = None) -> Future[ExitStatus]:
        """Ask a container to end: its stop signal now, SIGKILL for its whole cgroup after ``grace`` seconds.

        The future is done when it has ended; at once when it had already. One that survives SIGKILL for 5 s fails it
        with ContainerWedged; it is killed on, and may end later. Safe to repeat.
        """
        record = self._table.get(container_id)
        future = self._waits.expect(record.id)
        if self._table.advance(record.id, state=ContainerState.STOPPING) is None:
            record = self._table.get(container_id)
            if record.state in ENDED:
                self._waits.resolve(record.id, record.exit or ExitStatus(None))
            elif record.state is ContainerState.WEDGED:
                self._waits.fail(record.id, ContainerWedged(f"{record.name} {record.trouble}"))
            return future
        self._ask_to_end(record, record.config.process.stop_grace if grace is None else grace)
        return future

    def _ask_to_end(self, record: ContainerRecord, grace: float) -> None:
        try:
            self._parts.keeper.kill(record.id, self._stop_signal(record))
        except NotFound:
            self._finish(record.id, ExitStatus(None, at=time.time()), ContainerState.LOST)
            return
        except HoldfastError:
            grace = min(grace, _RETRY_SECONDS)
        self._deadlines.call_later(grace, lambda: self._kill_all(record.id, 0))

    def _kill_all(self, container_id: str, before: int) -> None:
        """Kill it once a second, having done so ``before`` times in vain, until it has ended."""
        if self._has_ended(container_id):
            return
        if before * _RETRY_SECONDS >= WEDGED_SECONDS:
            self._note_wedged(container_id)
        with contextlib.suppress(HoldfastError):
            self._parts.keeper.kill(container_id, signal.SIGKILL, everyone=True)
            before += 1
        self._deadlines.call_later(_RETRY_SECONDS, lambda: self._kill_all(container_id, before))

    def _note_wedged(self, container_id: str) -> None:
        """Whoever waits for its end waits no longer. Kept in memory only: another agent will see for itself."""
        trouble = describe_wedged(self._parts.cgroups.members(container_id))
        record = self._table.advance(container_id, persist=False, state=ContainerState.WEDGED, trouble=trouble)
        if record is not None:
            self._waits.fail(container_id, ContainerWedged(f"{record.name} {trouble}"))
            self._notify(ContainerEvent("wedged", container_id, time.time()))

    def _stop_signal(self, record: ContainerRecord) -> int:
        """Its own, its image's, or SIGTERM."""
        try:
            image = self._parts.images.config(record.config.image)
            return parse_signal(record.config.process.stop_signal or image.stop_signal or "SIGTERM")
        except HoldfastError:
            return int(signal.SIGTERM)

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
        if record.state in ENDED:
            raise Conflict(f"{record.name} has ended", reason="NotRunning")
        self._parts.keeper.kill(record.id, number)

    def remove(self, container_id: str) -> None:
        """Delete an ended container: writable layer, logs, record. Raises Conflict while it runs.

        Its log is kept while there is another container of its name.
        """
        record = self._table.get(container_id)
        if record.state not in ENDED:
            raise Conflict(f"{record.name} is {record.state}", reason="NotStopped", hint="stop it first")
        self._janitor.submit(self._tidy, record.id).result()
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
        self._launcher.close()
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
            self._finish(event.id, status, ContainerState.EXITED)
        elif event.kind == "oom" and self._table.knows(event.id):
            self._notify(ContainerEvent("oom", event.id, event.at))

    def _begin(self, event: KeeperEvent) -> None:
        changes = {"state": ContainerState.RUNNING, "pid": event.pid, "started": event.at}
        if self._table.advance(event.id, persist=False, **changes) is not None:
            self._notify(ContainerEvent("started", event.id, event.at))

    def _finish(self, container_id: str, status: ExitStatus, state: ContainerState) -> None:
        if self._table.advance(container_id, persist=False, state=state, exit=status, pid=0) is None:
            return
        self._waits.resolve(container_id, status)
        self._untidied.add(container_id)
        self._notify(ContainerEvent("exited", container_id, status.at, status))
        self._deadlines.call_later(_TIDY_SECONDS, lambda: self._submit(container_id))

    def _submit(self, container_id: str) -> None:
        with contextlib.suppress(RuntimeError):  # closed: the next start tidies up
            self._janitor.submit(self._tidy, container_id)

    def _submit_write(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._janitor.submit(self._write)

    def _write(self) -> None:
        """Write the records that wait for it; should the disk be full, with the next one."""
        with contextlib.suppress(HoldfastError):
            self._table.flush()

    def _tidy(self, container_id: str) -> None:
        """Only when the end is on our disk may the keeper forget it. Once for each end; runs in the janitor."""
        if container_id not in self._untidied:
            return
        self._untidied.discard(container_id)
        try:
            self._table.persist(container_id)
            self._cleaner.release(container_id)
        except HoldfastError as error:
            self._untidied.add(container_id)
            self._log.warning("an ended container is not tidied up yet", container=container_id[:12], error=str(error))
            self._deadlines.call_later(error.retry_after or _RETRY_SECONDS, lambda: self._submit(container_id))

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
                self._ask_to_end(record, record.config.process.stop_grace)
        elif record.state in ENDED:
            self._untidied.add(record.id)
            self._submit(record.id)
        elif state is not None and state.exit is not None:
            found = state.exit
            status = ExitStatus(found.code, found.signal, found.oom, found.at)
            self._finish(record.id, status, ContainerState.EXITED)
        elif record.state is ContainerState.CREATED:
            self._cleaner.erase(record.id)
            self._table.delete([record.id])
        else:
            self._finish(record.id, ExitStatus(None, at=time.time()), ContainerState.LOST)

    def close(self) -> None:
        """Stop our threads; containers go on."""
        self._launcher.close()
        self._deadlines.close()
        self._submit_write()
        self._janitor.shutdown(wait=True)
