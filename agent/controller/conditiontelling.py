"""Telling of conditions that have changed; of a crash loop with the last lines that the container wrote."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from agent.controller.parts import Shared
from agent.controller.telling.conditions import READY, Condition
from agent.engine.model import ContainerRecord
from agent.plan.actions import Hold, Plan
from agent.plan.crashloop import CRASH_LOOP

LOG_LINES = 10
SLOTS_TOLD = 3


class ConditionTeller:
    """Lives on the loop, one for each app. Nothing waits for the lines to be read."""

    def __init__(self, app: str, shared: Shared) -> None:
        self._app = app
        self._shared = shared
        self._telling: set[asyncio.Task[None]] = set()

    def tell(self, condition: Condition, plan: Plan, revision: str) -> None:
        """Record a condition, and of at most three slots in a crash loop what their containers wrote in the end."""
        holds = [hold for hold in plan.holds if hold.reason == CRASH_LOOP][:SLOTS_TOLD]
        if (condition.type, condition.reason) != (READY, CRASH_LOOP) or not holds:
            self._record(condition, revision)
            return
        task = asyncio.get_running_loop().create_task(self._record_crashes(condition, holds, revision))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _record_crashes(self, condition: Condition, holds: list[Hold], revision: str) -> None:
        logs: dict[str, list[str]] = {}
        message = condition.message
        for hold in holds:
            record = self._find(hold)
            said = await self._shared.speech.read_end(record, LOG_LINES) if record is not None else ""
            if record is not None and said:
                logs[record.name] = said.splitlines()
                message += f"\nThe last lines of {record.name}:\n{said}"
        self._record(replace(condition, message=message), revision, service=holds[0].service, logs=logs)

    def _record(self, condition: Condition, revision: str, **more: Any) -> None:
        self._shared.events.record(
            "app",
            app=self._app,
            reason=condition.reason,
            message=f"{condition.type} is {condition.status}. {condition.message}".strip(),
            condition=condition.type,
            status=condition.status,
            revision=revision,
            **more,
        )

    def _find(self, hold: Hold) -> ContainerRecord | None:
        """The container of a slot that says most: the newest that has ended, else the newest."""
        mine = [
            record
            for record in self._shared.inventory.of_app(self._app)
            if record.config.owner
            and (record.config.owner.service, record.config.owner.slot) == (hold.service, hold.slot)
        ]
        return max(mine, key=lambda record: (record.exit is not None, record.created), default=None)
