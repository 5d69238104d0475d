"""Runs the healthchecks: one task a container, timers of the loop, no thread while a probe runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from agent.controller.health.answers import Answers
from agent.controller.health.commandcheck import CommandChecks
from agent.controller.health.healthplan import HealthPlan, HealthRecord, compute_record, describe_failure
from agent.controller.inventory import NO_READING, HealthReading
from agent.controller.journal import Journal
from agent.controller.port import RecordsPort
from agent.engine.model import ContainerRecord, ContainerState
from agent.plan.observed import Health

KIND = "health"
Listener = Callable[[ContainerRecord, HealthRecord], None]


class HealthRunner:
    """The health of every running container that has a check. Everything here runs on the loop."""

    def __init__(
        self,
        commands: CommandChecks,
        journal: Journal,
        clock: Callable[[], float],
        listener: Listener,
        answers: Answers,
    ) -> None:
        self._commands = commands
        self._answers = answers
        self._journal = journal
        self._clock = clock
        self._listener = listener
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._records: dict[str, HealthRecord] = {}
        self._readings: dict[str, HealthReading] = {}
        self._unchecked: set[str] = set()

    def load(self, records: RecordsPort) -> None:
        """Take up what was known before a restart of the agent, so that nothing that serves stops serving."""
        for key, document in records.all(KIND).items():
            self._set(key, HealthRecord(Health(document["status"]), 0, float(document["healthy_at"])))

    def reading(self, container_id: str) -> HealthReading:
        """The health of a container; the same object until it changes."""
        return self._readings.get(container_id, NO_READING)

    def knows(self, container_id: str) -> bool:
        """Whether ``watch`` was called for it, by this agent."""
        return container_id in self._tasks or container_id in self._unchecked

    def watch(self, container: ContainerRecord, plan: HealthPlan | None) -> None:
        """Begin to check a running container; None: it has no check."""
        if plan is None:
            self._unchecked.add(container.id)
            return
        adopted = container.id in self._records
        if not adopted:
            self._set(container.id, HealthRecord())
        run = self._run(container, plan, at_once=adopted)
        self._tasks[container.id] = asyncio.get_running_loop().create_task(run, name=f"health {container.name}")

    def keep(self, living: Callable[[str], ContainerRecord | None]) -> None:
        """End the checks of containers that do not run any more, forget those that are gone."""
        for container_id in [*self._tasks]:
            record = living(container_id)
            if record is None or record.state is not ContainerState.RUNNING:
                self._tasks.pop(container_id).cancel()
        self._unchecked = {container_id for container_id in self._unchecked if living(container_id) is not None}
        for container_id in [key for key in self._records if living(key) is None]:
            del self._records[container_id]
            self._readings.pop(container_id, None)
            self._journal.put(KIND, container_id, None)

    def close(self) -> None:
        """End every check."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def _set(self, container_id: str, record: HealthRecord) -> bool:
        before = self._readings.get(container_id)
        self._records[container_id] = record
        if before is not None and before.status is record.status:
            return False
        trouble = describe_failure("healthcheck", record.output) if record.status is Health.UNHEALTHY else ""
        self._readings[container_id] = HealthReading(record.status, record.healthy_at, trouble=trouble)
        return True

    async def _run(self, container: ContainerRecord, plan: HealthPlan, *, at_once: bool) -> None:
        loop = asyncio.get_running_loop()
        before = max(0.0, self._clock() - container.started) if at_once else 0.0  # later the clock may be set
        watched = loop.time() - before
        while True:
            record = self._records[container.id]
            if not at_once:
                await asyncio.sleep(plan.compute_wait(record.status, loop.time() - watched))
            at_once = False
            begun = loop.time() - watched
            passed, output = await self._commands.run(container.id, plan.args, plan.timeout)
            output = self._answers.note(container, "healthcheck", passed=passed, output=output)
            after = compute_record(plan, self._records[container.id], passed, begun, self._clock())
            after = after if passed else replace(after, output=output)
            if self._set(container.id, after):
                self._journal.put(KIND, container.id, {"status": after.status.value, "healthy_at": after.healthy_at})
                self._listener(container, after)
