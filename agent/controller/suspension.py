"""``down``: everything of the agent is taken away and stays away, until the desired state changes or ``sync`` asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from agent.controller.outcome import compute_failure
from agent.controller.parts import Shared
from agent.controller.port import RecordsPort
from agent.controller.worker import AppWorker
from agent.errors import HoldfastError

AGENT_KIND = "agent"
SUSPENDED_KEY = "suspended"


class Suspension:
    """Lives on the loop, and sets ``shared.suspended``. ``workers`` are those of all apps, always as of now. That it
    is in force is in the database, so that it outlives the agent."""

    def __init__(self, shared: Shared, records: RecordsPort, workers: Mapping[str, AppWorker]) -> None:
        self._shared = shared
        self._records = records
        self._workers = workers
        self._revision = ""
        self._down_at = ""
        self._taking_down = asyncio.Lock()
        self._rest: asyncio.Task[None] | None = None

    def load(self) -> None:
        """Take up what an earlier agent left."""
        document = self._records.get(AGENT_KIND, SUSPENDED_KEY)
        self._shared.suspended |= document is not None
        self._down_at = self._down_at or str((document or {}).get("revision", ""))

    def note_revision(self, revision: str) -> None:
        """A revision ends the suspension, unless it is the one that was taken down, or the first to be read at all."""
        if self._shared.suspended and (not self._down_at or self._taking_down.locked()):
            self._note(revision)
        elif self._shared.suspended and self._down_at != revision:
            self._resume()
        self._revision = revision

    def finish(self) -> None:
        """See through what an agent has begun that was killed in the middle of ``down``."""
        if self._shared.suspended and self._shared.inventory.all() and not self._taking_down.locked():
            self._rest = asyncio.get_running_loop().create_task(self._finish(), name="down")

    async def _finish(self) -> None:
        try:
            await self.begin()
        except HoldfastError as error:
            self._shared.events.fail("agent", compute_failure(error, 1), error, what="down that was interrupted")

    async def begin(self) -> None:
        """Stop and remove every container and network. What changes before that has ended is taken down too."""
        async with self._taking_down:
            await self._take_down()

    async def _take_down(self) -> None:
        shared = self._shared
        shared.suspended = True
        self._note(self._revision)
        await shared.journal.flush()
        for worker in [*self._workers.values()]:
            await worker.quiesce()
        await shared.gate.run(shared.engine.down)
        shared.names.forget()
        shared.publisher.reset()
        shared.inventory.refresh()
        shared.health.keep(shared.inventory.get)
        for worker in [*self._workers.values()]:
            worker.restart_history()
            worker.poke()
        if shared.suspended:
            self._note(self._down_at)
        await shared.journal.flush()

    async def end(self) -> None:
        """Let everything come up again; that is on disk when it returns."""
        async with self._taking_down:
            if self._shared.suspended:
                self._resume()
                await self._shared.journal.flush()

    def _note(self, revision: str) -> None:
        self._down_at = revision
        self._shared.journal.put(AGENT_KIND, SUSPENDED_KEY, {"revision": revision})

    def _resume(self) -> None:
        self._shared.suspended = False
        self._shared.journal.put(AGENT_KIND, SUSPENDED_KEY, None)
        for worker in self._workers.values():
            worker.poke()
