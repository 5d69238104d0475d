"""Healthchecks and probes of all containers: what they say together, and who is told when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agent.controller.health.answers import Answers
from agent.controller.health.commandcheck import CommandChecks
from agent.controller.health.health import HealthRunner
from agent.controller.health.healthplan import HealthPlan, HealthRecord
from agent.controller.health.probeplan import ProbeRecord, merge
from agent.controller.health.probes import ProbeRunner
from agent.controller.inventory import NO_READING, HealthReading
from agent.controller.journal import Journal
from agent.controller.port import RecordsPort
from agent.controller.speech import Speech
from agent.controller.telling.telling import Teller
from agent.engine.model import ContainerRecord
from agent.plan.observed import Health
from agent.spec.model import Probes

LOG_LINES = 5


class Checks:
    """Lives on the loop. ``poke`` is called with the app of a container whose health or readiness has changed."""

    def __init__(
        self,
        commands: CommandChecks,
        speech: Speech,
        journal: Journal,
        teller: Teller,
        clock: Callable[[], float],
        poke: Callable[[str], None],
    ) -> None:
        self._speech = speech
        self._teller = teller
        self._poke = poke
        self._answers = Answers(speech)
        self._health = HealthRunner(commands, journal, clock, self._on_health, self._answers)
        self._probes = ProbeRunner(commands, journal, clock, self._on_probe, self._answers)
        self._merged: dict[str, tuple[HealthReading, HealthReading, HealthReading]] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def load(self, records: RecordsPort) -> None:
        """Take up what was known before a restart of the agent, so that nothing that serves stops serving."""
        self._health.load(records)
        self._probes.load(records)

    def reading(self, container_id: str) -> HealthReading:
        """The health and readiness of a container; the same object until they change."""
        one, other = self._health.reading(container_id), self._probes.reading(container_id)
        if other is NO_READING:
            return one
        if one is NO_READING:
            return other
        known = self._merged.get(container_id)
        if known is None or known[0] is not one or known[1] is not other:
            known = self._merged[container_id] = (one, other, merge(one, other))
        return known[2]

    def answer(self, container_id: str) -> str:
        """What the checks of a container that is not ready have said so far, for people; empty when it is ready."""
        reading = self.reading(container_id)
        if reading.accepting and reading.status in (Health.NONE, Health.HEALTHY):
            return ""
        return reading.trouble or self._answers.describe(container_id)

    def knows(self, container_id: str) -> bool:
        """Whether ``watch`` was called for it, by this agent."""
        return self._health.knows(container_id)

    def watch(self, container: ContainerRecord, plan: HealthPlan | None) -> None:
        """Begin to run the healthcheck of a running container; None: it has none."""
        self._health.watch(container, plan)

    def probe(self, container: ContainerRecord, probes: Probes | None) -> None:
        """Probe a running container in this way from now on; None: not at all."""
        self._probes.watch(container, probes)

    def rest(self, container_id: str) -> None:
        """Probe a container no more, because it is to end: nobody acts on it, and what probes it is a connection."""
        self._probes.rest(container_id)

    def wake(self, container_id: str) -> None:
        """Have a container that could not be ended probed again."""
        self._probes.wake(container_id)

    def keep(self, living: Callable[[str], ContainerRecord | None]) -> None:
        """End the checks of containers that do not run any more, forget those that are gone."""
        self._health.keep(living)
        self._probes.keep(living)
        self._answers.keep(living)
        for container_id in [key for key in self._merged if living(key) is None]:
            del self._merged[container_id]

    def close(self) -> None:
        """End every check."""
        self._health.close()
        self._probes.close()
        for task in self._telling:
            task.cancel()

    def _on_health(self, container: ContainerRecord, record: HealthRecord) -> None:
        self._tell(container, record.status.value, record.output, failed=record.status is Health.UNHEALTHY)

    def _on_probe(self, container: ContainerRecord, before: ProbeRecord, after: ProbeRecord) -> None:
        failed = bool(after.failing)
        if before.status is not after.status:
            ends = after.status is Health.UNHEALTHY or after.status is Health.HEALTHY
            word = after.status.value if ends else "starting"
            self._tell(container, word, after.output if failed else "", failed=failed)
        if before.accepting is not after.accepting and not failed:
            word = "ready" if after.accepting else "not ready"
            self._tell(container, word, "" if after.accepting else after.output)
        self._poke_owner(container)

    def _tell(self, container: ContainerRecord, word: str, output: str, *, failed: bool = False) -> None:
        """Record it, of what failed with the last lines of its log; the app does not wait for these."""
        task = asyncio.get_running_loop().create_task(self._record(container, word, output, failed=failed))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        self._poke_owner(container)

    async def _record(self, container: ContainerRecord, word: str, output: str, *, failed: bool) -> None:
        owner = container.config.owner
        if owner is None:
            return
        said = await self._speech.read_end(container, LOG_LINES) if failed else ""
        message = f"{container.name} is {word}. {output}".strip()
        self._teller.record(
            "container",
            app=owner.app,
            service=owner.service,
            container=container.name,
            reason="".join(map(str.capitalize, word.split())),
            message=f"{message}\nIts last lines:\n{said}" if said else message,
            id=container.id,
            status=word,
        )

    def _poke_owner(self, container: ContainerRecord) -> None:
        if container.config.owner is not None:
            self._poke(container.config.owner.app)
