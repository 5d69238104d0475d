"""How a container is made to end: by its own signal, then by SIGKILL to all of it; what survives that is wedged."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future

from agent.engine.endings import Endings
from agent.engine.model import ContainerEvent, ContainerRecord, ContainerState, ExitStatus
from agent.engine.parts import Parts
from agent.engine.process import parse_signal
from agent.engine.table import ContainerTable
from agent.engine.wedged import WEDGED_SECONDS, ContainerWedged, describe_wedged
from agent.errors import HoldfastError, NotFound

_RETRY_SECONDS = 1.0


class Stopper:
    """Thread-safe; nothing here waits for an end."""

    def __init__(
        self, parts: Parts, table: ContainerTable, endings: Endings, notify: Callable[[ContainerEvent], None]
    ) -> None:
        self._parts = parts
        self._table = table
        self._endings = endings
        self._notify = notify

    def stop(self, container_id: str, grace: float | None) -> Future[ExitStatus]:
        """As ``Containers.stop`` says."""
        record, waits = self._table.get(container_id), self._endings.waits
        future = waits.expect(record.id)
        if self._table.advance(record.id, persist=False, state=ContainerState.STOPPING) is None:
            record = self._table.get(container_id)
            if record.state.ended:
                waits.resolve(record.id, record.exit or ExitStatus(None))
            elif record.state is ContainerState.WEDGED:
                waits.fail(record.id, ContainerWedged(f"{record.name} {record.trouble}"))
            return future
        self._write_down(record.id)
        self.ask_to_end(record, grace)
        return future

    def _write_down(self, container_id: str) -> None:
        """That it is stopped. A full disk must not keep it running: it is written with what can be written next."""
        try:
            self._table.persist(container_id)
        except HoldfastError:
            self._table.persist_later(container_id)

    def ask_to_end(self, record: ContainerRecord, grace: float | None = None) -> None:
        """Send its stop signal now, and SIGKILL to all of it after ``grace`` seconds, by default its own."""
        grace = record.config.process.stop_grace if grace is None else grace
        try:
            self._parts.keeper.kill(record.id, self._stop_signal(record))
        except NotFound:
            self._endings.finish(record.id, ExitStatus(None, at=time.time()), ContainerState.LOST)
            return
        except HoldfastError:
            grace = min(grace, _RETRY_SECONDS)
        self._endings.deadlines.call_later(grace, lambda: self._kill_all(record.id, 0))

    def _stop_signal(self, record: ContainerRecord) -> int:
        """Its own, its image's, or SIGTERM."""
        try:
            image = self._parts.images.config(record.config.image)
            return parse_signal(record.config.process.stop_signal or image.stop_signal or "SIGTERM")
        except HoldfastError:
            return int(signal.SIGTERM)

    def _kill_all(self, container_id: str, before: int) -> None:
        """Kill it once a second, having done so ``before`` times in vain, until it has ended."""
        if self._table.has_ended(container_id):
            return
        if before * _RETRY_SECONDS >= WEDGED_SECONDS:
            self._note_wedged(container_id)
        with contextlib.suppress(HoldfastError):
            self._parts.keeper.kill(container_id, signal.SIGKILL, everyone=True)
            before += 1
        self._endings.deadlines.call_later(_RETRY_SECONDS, lambda: self._kill_all(container_id, before))

    def _note_wedged(self, container_id: str) -> None:
        """Whoever waits for its end waits no longer. Kept in memory only: another agent will see for itself."""
        trouble = describe_wedged(self._parts.cgroups.members(container_id))
        record = self._table.advance(container_id, persist=False, state=ContainerState.WEDGED, trouble=trouble)
        if record is not None:
            self._endings.waits.fail(container_id, ContainerWedged(f"{record.name} {trouble}"))
            self._notify(ContainerEvent("wedged", container_id, time.time()))
