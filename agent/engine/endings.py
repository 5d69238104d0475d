"""What becomes of a container that has ended: whoever waits for it is told at once, and it is tidied up a moment later,
so that the start of its replacement goes first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from agent.engine.cleanup import Cleaner
from agent.engine.exits import Deadlines, ExitWaits
from agent.engine.model import ContainerEvent, ContainerState, ExitStatus
from agent.engine.table import ContainerTable
from agent.errors import HoldfastError
from agent.telemetry.logging import get_logger

_RETRY_SECONDS = 1.0
_WRITE_SECONDS, _TIDY_SECONDS = 0.25, 0.03


class Endings:
    """Thread-safe. ``waits`` are those who wait for an end; what ``deadlines`` calls must not block."""

    def __init__(self, table: ContainerTable, cleaner: Cleaner, notify: Callable[[ContainerEvent], None]) -> None:
        self._table = table
        self._cleaner = cleaner
        self._notify = notify
        self._untidied: set[str] = set()
        self._janitor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="janitor")
        self._log = get_logger("engine")
        self.waits = ExitWaits()
        self.deadlines = Deadlines()

    def finish(self, container_id: str, status: ExitStatus, state: ContainerState) -> None:
        """A container has ended, as ``state`` says: EXITED or LOST. Quick; later calls do nothing."""
        if self._table.advance(container_id, persist=False, state=state, exit=status, pid=0) is None:
            return
        self.waits.resolve(container_id, status)
        self._untidied.add(container_id)
        self._notify(ContainerEvent("exited", container_id, status.at, status))
        self.deadlines.call_later(_TIDY_SECONDS, lambda: self._submit(container_id))

    def tidy_again(self, container_id: str) -> None:
        """It had ended when we started; nobody knows how far it was tidied up."""
        self._untidied.add(container_id)
        self._submit(container_id)

    def tidy(self, container_id: str) -> None:
        """Tidy up after an ended container now, unless that is done already; blocks."""
        self._janitor.submit(self._tidy, container_id).result()

    def write_soon(self) -> None:
        """Have the records that wait for it written."""
        self.deadlines.call_later(_WRITE_SECONDS, self._submit_write)

    def _submit(self, container_id: str) -> None:
        with contextlib.suppress(RuntimeError):  # closed: the next start tidies up
            self._janitor.submit(self._tidy, container_id)

    def _submit_write(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._janitor.submit(self._write)

    def _write(self) -> None:
        """Should the disk be full, with the next one."""
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
        except (HoldfastError, OSError) as error:
            self._untidied.add(container_id)
            self._log.warning("an ended container is not tidied up yet", container=container_id[:12], error=str(error))
            wait = error.retry_after if isinstance(error, HoldfastError) else None
            self.deadlines.call_later(wait or _RETRY_SECONDS, lambda: self._submit(container_id))

    def close(self) -> None:
        """Write what waits, tidy up no more."""
        self.deadlines.close()
        self._submit_write()
        self._janitor.shutdown(wait=True)
