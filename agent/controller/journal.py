"""Writing down what must outlive the agent, in batches behind the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.controller.gate import Gate
from agent.controller.port import RecordsPort
from agent.errors import HoldfastError

Document = Mapping[str, Any]
RETRY_SECONDS = 5.0
GATHER_SECONDS = 0.02


class Journal:
    """Documents to be stored (or, as None, deleted), newest value wins. Lives on the loop; writes in a thread.

    ``before`` is called, in that thread, ahead of every write: what has led to it is to be on disk first.
    """

    def __init__(self, records: RecordsPort, gate: Gate, before: Callable[[], object] = lambda: None) -> None:
        self._records = records
        self._gate = gate
        self._before = before
        self._unwritten: dict[tuple[str, str], Document | None] = {}
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def put(self, kind: str, key: str, document: Document | None) -> None:
        """Store a document soon; None deletes it."""
        self._unwritten[kind, key] = document
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write_until_clean())

    async def flush(self) -> None:
        """Wait until all that was put is on disk. Raises HoldfastError (a full disk) when it cannot be."""
        while self._unwritten:
            await self._write_once()

    def close(self) -> None:
        """Write what is left now, blocking for a moment, and write no more; what the disk does not take is lost."""
        if self._task is not None:
            self._task.cancel()
        batch, self._unwritten = self._unwritten, {}
        with contextlib.suppress(HoldfastError):
            self._write(batch)

    async def _write_until_clean(self) -> None:
        """A little later, so that one write takes all that a pass leaves, and the start that it begins goes first."""
        while self._unwritten:
            await asyncio.sleep(GATHER_SECONDS)
            try:
                await self._write_once()
            except HoldfastError as error:
                await asyncio.sleep(error.retry_after or RETRY_SECONDS)

    async def _write_once(self) -> None:
        """Write all there is; whoever waited here for another's write usually finds his own written too."""
        async with self._writing:
            batch = dict(self._unwritten)
            if batch:
                await self._gate.run(self._write, batch)
            for key, document in batch.items():
                if self._unwritten.get(key, batch) is document:
                    del self._unwritten[key]

    def _write(self, batch: Mapping[tuple[str, str], Document | None]) -> None:
        """In one transaction: what was decided together is on disk together."""
        self._before()
        kinds: dict[str, list[tuple[str, Document | None]]] = {}
        for (kind, key), document in batch.items():
            kinds.setdefault(kind, []).append((key, document))
        with self._records.transaction():
            for kind, entries in kinds.items():
                self._write_kind(kind, entries)

    def _write_kind(self, kind: str, entries: Sequence[tuple[str, Document | None]]) -> None:
        kept = [(key, document) for key, document in entries if document is not None]
        if kept:
            self._records.put_many(kind, kept)
        gone = [key for key, document in entries if document is None]
        if gone:
            self._records.delete(kind, *gone)
