"""The engine's containers as the planner sees them, by app; worked out again only for what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from agent.controller.port import ContainersPort
from agent.engine.model import ContainerRecord, ContainerState
from agent.plan.actions import StartContainer
from agent.plan.history import ContainerExit
from agent.plan.observed import Health, ObservedContainer, Phase
from agent.values import frozen

_PHASES: Mapping[ContainerState, Phase] = {
    ContainerState.CREATED: Phase.PENDING,
    ContainerState.RUNNING: Phase.RUNNING,
    ContainerState.STOPPING: Phase.STOPPING,
    ContainerState.WEDGED: Phase.WEDGED,
    ContainerState.EXITED: Phase.EXITED,
    ContainerState.LOST: Phase.LOST,
}

_ENDED = frozenset({ContainerState.EXITED, ContainerState.LOST})


@frozen
class HealthReading:
    """What healthcheck and probes say now, when (epoch seconds, 0 never) the container was first healthy, whether it
    may take traffic, and, when it is unhealthy, which of its checks it failed."""

    status: Health = Health.NONE
    healthy_at: float = 0.0
    accepting: bool = True
    trouble: str = ""


NO_READING = HealthReading()


@frozen
class Pending:
    """A start under way. ``known`` are the slot's containers from before it, so that its own is told from them."""

    container: ObservedContainer
    known: frozenset[str]


def expect_container(app: str, action: StartContainer, observed: Iterable[ObservedContainer], now: float) -> Pending:
    """The container that a start is about to make, beside those that are observed."""
    place = (action.service, action.slot)
    known = frozenset(container.id for container in observed if (container.service, container.slot) == place)
    container = ObservedContainer(
        id=f"pending-{action.id}",
        app=app,
        service=action.service,
        slot=action.slot,
        digest=action.digest,
        phase=Phase.PENDING,
        image=action.image,
        created=now,
    )
    return Pending(container, known)


class Inventory:
    """An index over ``containers.list()``; ``refresh`` costs nothing while nothing changed."""

    def __init__(self, containers: ContainersPort) -> None:
        self._containers = containers
        self._listed: tuple[ContainerRecord, ...] = ()
        self._by_app: dict[str, list[ContainerRecord]] = {}
        self._by_id: dict[str, ContainerRecord] = {}
        self._converted: dict[str, tuple[ContainerRecord, HealthReading, ObservedContainer]] = {}

    def refresh(self) -> None:
        """Look at the engine's list."""
        listed = self._containers.list()
        if listed is self._listed:
            return
        self._listed = listed
        self._by_id = {record.id: record for record in listed}
        self._by_app = {}
        for record in listed:
            if record.config.owner is not None:
                self._by_app.setdefault(record.config.owner.app, []).append(record)
        self._converted = {key: value for key, value in self._converted.items() if key in self._by_id}

    def get(self, container_id: str) -> ContainerRecord | None:
        """One record, as of the last refresh."""
        return self._by_id.get(container_id)

    def all(self) -> tuple[ContainerRecord, ...]:
        """Every record, as of the last refresh."""
        return self._listed

    def of_app(self, app: str) -> list[ContainerRecord]:
        """The records an app owns, oldest first, as of the last refresh."""
        return self._by_app.get(app, [])

    def count_alive(self, app: str, service: str) -> int:
        """How many containers of a service have processes or are about to, as of the last refresh."""
        owned = ((record.state, record.config.owner) for record in self.of_app(app))
        return sum(owner is not None and owner.service == service and state not in _ENDED for state, owner in owned)

    @property
    def apps(self) -> Iterable[str]:
        """The apps that own containers."""
        return tuple(self._by_app)

    def observe(
        self,
        app: str,
        reading: Callable[[str], HealthReading],
        stopping: Mapping[str, bool],
        pending: Iterable[Pending] = (),
    ) -> tuple[ObservedContainer, ...]:
        """The containers of an app: those that exist, those we are stopping (true: they only finish their connections
        yet), those whose start is under way."""
        found = [self._observe(record, reading(record.id), stopping) for record in self.of_app(app)]
        for start in pending:
            place = (start.container.service, start.container.slot)
            if not any((c.service, c.slot) == place and c.id not in start.known for c in found):
                found.append(start.container)
        return tuple(found)

    def _observe(
        self, record: ContainerRecord, reading: HealthReading, stopping: Mapping[str, bool]
    ) -> ObservedContainer:
        if record.id in stopping and record.state is ContainerState.RUNNING:
            return replace(_convert(record, reading, Phase.STOPPING), draining=stopping[record.id])
        known = self._converted.get(record.id)
        if known is not None and known[0] is record and known[1] is reading:
            return known[2]
        converted = _convert(record, reading, _PHASES[record.state])
        self._converted[record.id] = (record, reading, converted)
        return converted


def _convert(record: ContainerRecord, reading: HealthReading, phase: Phase) -> ObservedContainer:
    owner = record.config.owner
    assert owner is not None
    end = record.exit
    return ObservedContainer(
        id=record.id,
        app=owner.app,
        service=owner.service,
        slot=owner.slot,
        digest=owner.spec_digest,
        phase=phase,
        health=reading.status,
        image=record.config.image,
        created=record.created,
        started=record.started,
        healthy_at=reading.healthy_at,
        accepting=reading.accepting,
        exit=ContainerExit(end.code, end.signal, end.oom, end.at) if end else None,
        networks=frozenset(attachment.network for attachment in record.config.networks),
        trouble=record.trouble or reading.trouble,
    )
