"""Asks the probes: a task for each probe of a container, timers of the loop, no thread while one waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.controller.health.answers import Answers
from agent.controller.health.commandcheck import CommandChecks
from agent.controller.health.probecalls import ask_http, ask_tcp
from agent.controller.health.probeplan import (
    Kind,
    ProbeRecord,
    Streak,
    adopt,
    begin,
    count,
    decode_record,
    encode_record,
    judge,
    resume,
)
from agent.controller.inventory import NO_READING, HealthReading
from agent.controller.journal import Journal
from agent.controller.port import RecordsPort
from agent.engine.model import ContainerRecord, ContainerState
from agent.spec.model import Probe, Probes

KIND = "probe"
_UNPROBED = Probes()
Listener = Callable[[ContainerRecord, ProbeRecord, ProbeRecord], None]


@dataclass
class _Watched:
    """A container, how it is probed, and the tasks that do so."""

    container: ContainerRecord
    probes: Probes
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.tasks.clear()


class ProbeRunner:
    """Everything here runs on the loop. ``listener`` is told of a container's record before and after it changed."""

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
        self._watched: dict[str, _Watched] = {}
        self._records: dict[str, ProbeRecord] = {}
        self._readings: dict[str, HealthReading] = {}

    def load(self, records: RecordsPort) -> None:
        """Take up what was known before a restart of the agent, so that nothing that serves stops serving."""
        for key, document in records.all(KIND).items():
            self._set(key, decode_record(document))

    def reading(self, container_id: str) -> HealthReading:
        """What the probes of a container say; the same object until it changes."""
        return self._readings.get(container_id, NO_READING)

    def watch(self, container: ContainerRecord, probes: Probes | None) -> None:
        """Probe a running container in this way from now on; None: not at all."""
        wanted = probes or _UNPROBED
        watched = self._watched.get(container.id)
        if watched is not None and (watched.probes is wanted or watched.probes == wanted):
            return
        known = self._records.get(container.id)
        if watched is not None:
            watched.cancel()
            self._replace(container, adopt(known or ProbeRecord(), wanted), wanted)
        elif known is None and wanted != _UNPROBED:
            self._set(container.id, begin(wanted))
        elif wanted == _UNPROBED:
            self._forget(container.id)
        elif known is not None:
            self._set(container.id, resume(known, wanted))
        self._watched[container.id] = fresh = _Watched(container, wanted)
        self._begin(fresh, resumed=watched is None and known is not None)

    def _replace(self, container: ContainerRecord, record: ProbeRecord, probes: Probes) -> None:
        if probes == _UNPROBED:
            self._forget(container.id)
            return
        self._set(container.id, record)
        self._journal.put(KIND, container.id, encode_record(record))

    def _forget(self, container_id: str) -> None:
        if self._records.pop(container_id, None) is not None:
            self._journal.put(KIND, container_id, None)
        self._readings.pop(container_id, None)

    def rest(self, container_id: str) -> None:
        """Ask a container nothing more: it is to end."""
        watched = self._watched.get(container_id)
        if watched is not None:
            watched.cancel()

    def wake(self, container_id: str) -> None:
        """It does not end after all: the next ``watch`` probes it again."""
        self.rest(container_id)
        self._watched.pop(container_id, None)

    def keep(self, living: Callable[[str], ContainerRecord | None]) -> None:
        """Probe no containers that do not run any more, forget those that are gone."""
        for container_id, watched in tuple(self._watched.items()):
            record = living(container_id)
            if record is None or record.state is not ContainerState.RUNNING:
                watched.cancel()
            if record is None:
                del self._watched[container_id]
        for container_id in [key for key in self._records if living(key) is None]:
            self._forget(container_id)

    def close(self) -> None:
        """Ask no more."""
        for watched in self._watched.values():
            watched.cancel()
        self._watched.clear()

    def _begin(self, watched: _Watched, *, resumed: bool) -> None:
        """Start the tasks of what may be asked now: the startup probe, or, when that has passed, the two others."""
        probes = watched.probes
        pairs = [(Kind.READINESS, probes.readiness), (Kind.LIVENESS, probes.liveness)]
        record = self._records.get(watched.container.id)
        if record is not None and not record.started:
            pairs = [(Kind.STARTUP, probes.startup)]
        loop = asyncio.get_running_loop()
        watched.tasks = [
            loop.create_task(self._run(watched, kind, probe, resumed=resumed), name=f"{kind} {watched.container.name}")
            for kind, probe in pairs
            if probe is not None
        ]

    async def _run(self, watched: _Watched, kind: Kind, probe: Probe, *, resumed: bool) -> None:
        """One probe, until cancelled; after a restart of the agent the first ones are spread over their period."""
        container, loop, streak = watched.container, asyncio.get_running_loop(), Streak()
        wait = min(probe.initial_delay, container.started + probe.initial_delay - self._clock())
        spread = int(container.id[:8], 16) / 2**32 * probe.period if resumed else 0.0
        await asyncio.sleep(max(0.0, wait, spread))
        while True:
            begun = loop.time()
            passed, output = await self._ask(container, probe)
            output = self._answers.note(container, f"{kind} probe", passed=passed, output=output)
            streak, counts = count(probe, streak, passed)
            if counts:
                self._note(container, kind, passed, output)
            if counts and passed and kind is Kind.STARTUP:
                self._begin(watched, resumed=False)
                return
            await asyncio.sleep(max(0.0, begun + probe.period - loop.time()))

    async def _ask(self, container: ContainerRecord, probe: Probe) -> tuple[bool, str]:
        if probe.command:
            return await self._commands.run(container.id, probe.command, probe.timeout)
        if not container.ip:
            return False, "the container has no address"
        try:
            async with asyncio.timeout(probe.timeout):
                if probe.http is not None:
                    return await ask_http(container.ip, probe.http, probe.timeout)
                return await ask_tcp(container.ip, probe.tcp.port if probe.tcp is not None else 0)
        except TimeoutError:
            return False, f"no result in {probe.timeout:g} s"
        except asyncio.LimitOverrunError:
            return False, "the header of the answer is too long"
        except asyncio.IncompleteReadError:
            return False, "the connection was closed without an answer"
        except OSError as error:
            return False, os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
        except (EOFError, ValueError) as error:
            return False, str(error)

    def _note(self, container: ContainerRecord, kind: Kind, passed: bool, output: str) -> None:
        before = self._records.get(container.id)
        if before is None:
            return
        after = judge(before, kind, passed, self._clock(), f"{kind} probe: {output}" if not passed else before.output)
        if encode_record(after) == encode_record(before):
            self._records[container.id] = after
            return
        self._set(container.id, after)
        self._journal.put(KIND, container.id, encode_record(after))
        self._listener(container, before, after)

    def _set(self, container_id: str, record: ProbeRecord) -> None:
        self._records[container_id] = record
        if self._readings.get(container_id) != record.reading:
            self._readings[container_id] = record.reading
