"""What the engine tells in its own threads, brought to the loop: it is written down, and wakes the app it is about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from agent.controller.lastlines import LastLines
from agent.controller.parts import Shared
from agent.controller.telling.callers import Callers
from agent.controller.telling.happenings import Happenings
from agent.controller.worker import AppWorker
from agent.engine.model import ContainerEvent


class EngineWatch:
    """Lives on the loop. ``names_fault`` says why names are not answered, as it was last told of; else it is empty."""

    def __init__(self, shared: Shared, workers: Mapping[str, AppWorker], callers: Callers) -> None:
        self._shared = shared
        self._workers = workers
        self._happenings = Happenings(shared.events, callers)
        self._endings = LastLines(shared)
        self.names_fault = ""

    def begin(self) -> None:
        """Be told from now on, and write down what came while no agent was there to."""
        loop, engine = asyncio.get_running_loop(), self._shared.engine
        engine.subscribe(lambda event: _hand_over(loop, self._on_event, event))
        engine.networks.watch_names(lambda: _hand_over(loop, self._on_names))
        self._on_names()
        self._happenings.catch_up(engine.containers.list())

    def _on_event(self, event: ContainerEvent) -> None:
        """Wake the app it belongs to; an app nobody wants is not our business yet."""
        shared = self._shared
        record = shared.inventory.get(event.container)
        shared.inventory.refresh()
        record = shared.inventory.get(event.container) or record
        shared.health.keep(shared.inventory.get)
        owner = record.config.owner if record is not None else None
        if record is None or owner is None:
            return
        worker = self._workers.get(owner.app)
        asked = worker is None or worker.removed or shared.suspended or worker.drift.is_ours(record.id)
        self._happenings.note(event, record, asked=asked)
        if worker is not None and event.exit is not None and not asked and not worker.tells_crashes:
            self._endings.tell(record, event.exit)
        if event.kind == "oom":
            shared.metrics.oom_killed(owner.app, owner.service)
        if worker is not None:
            worker.poke()

    def _on_names(self) -> None:
        """The name server came or went: every app's condition may say so."""
        before, self.names_fault = self.names_fault, self._shared.engine.networks.names_fault
        if before == self.names_fault:
            return
        reason = "NamesUnavailable" if self.names_fault else "NamesAnswered"
        message = self.names_fault or "names are answered again"
        self._shared.events.record("network", reason=reason, message=message)
        for worker in [*self._workers.values()]:
            worker.poke()
        self._shared.changed()


def _hand_over(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: object) -> None:
    """From an engine's thread to the loop; a loop that has ended wants no events."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise
