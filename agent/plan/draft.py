"""The plan while it is being written: what the rules read, and where they put what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.plan.actions import (
    Action,
    Cause,
    Hold,
    RemoveContainer,
    StartContainer,
    StopContainer,
)
from agent.plan.course import STEADY, Course
from agent.plan.history import SlotHistory, compute_due
from agent.plan.observed import NO_SLOTS, ImageState, ObservedApp, ObservedContainer, Phase, SlotKey
from agent.plan.restart import Policy
from agent.plan.wants import DesiredApp
from agent.spec.model import Service, UpdateConfig

FOREVER = Policy("any", 0, 0.0, 0.0)
ONE_AT_A_TIME = UpdateConfig()
UNKNOWN_IMAGE = ImageState()
SURGE = 1


@dataclass
class ServiceView:
    """One service as the rules see it: how it should be, and its containers by slot, oldest first.

    ``service`` is None and ``replicas`` 0 when it is not wanted any more. The rules count in ``unsettled`` the slots
    whose new container has still to arrive, set ``rolling`` while one is to replace another, and count in
    ``reserved`` the empty slots that are to be filled.
    """

    name: str
    service: Service | None = None
    replicas: int = 0
    digest: str = ""
    image: ImageState = UNKNOWN_IMAGE
    policy: Policy = FOREVER
    config: UpdateConfig = ONE_AT_A_TIME
    slots: dict[int, list[ObservedContainer]] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    unsettled: int = 0
    rolling: bool = False
    reserved: int = 0

    @property
    def surge(self) -> int:
        """How many containers beyond the desired number may be alive because of starts."""
        return max(SURGE, self.config.parallelism or self.replicas)

    def wanted(self) -> range:
        """The slots that should be filled."""
        return range(1, self.replicas + 1)

    def serving(self, slot: int) -> list[ObservedContainer]:
        """The containers that fill a slot."""
        return [container for container in self.slots.get(slot, ()) if container.serving]

    def last_ended(self, slot: int) -> ObservedContainer | None:
        """The ended container that says most about a slot: one of the desired spec, else the newest."""
        ended = [container for container in self.slots.get(slot, ()) if not container.alive]
        return max(ended, key=self.rank, default=None)

    def rank(self, container: ObservedContainer) -> tuple[bool, float, str]:
        """Orders a slot's containers: the desired spec last, then by age, which alone misleads when the clock steps."""
        return (container.digest == self.digest, container.created, container.id)

    def count_alive(self) -> int:
        """How many containers have processes or are about to. Those that only finish their connections do not count, as
        far as there are no more of them than replicas: nothing waits behind them."""
        found = [container for containers in self.slots.values() for container in containers if container.alive]
        return len(found) - min(sum(container.draining for container in found), self.replicas)

    @property
    def calm(self) -> bool:
        """Whether every slot is filled by exactly one container that is ready and as desired."""
        return bool(self.digest) and len(self.slots) == self.replicas and all(map(self._is_calm, self.wanted()))

    def _is_calm(self, slot: int) -> bool:
        containers = self.slots.get(slot, ())
        return len(containers) == 1 and containers[0].ready and containers[0].digest == self.digest


@dataclass
class Draft:
    """Everything said so far about one app."""

    desired: DesiredApp | None
    observed: ObservedApp
    now: float
    course: Course = STEADY
    digests: dict[str, str] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    views: dict[str, ServiceView] = field(default_factory=dict)
    slots: Mapping[SlotKey, SlotHistory] = field(default_factory=lambda: NO_SLOTS)
    pulls: set[str] = field(default_factory=set)
    next_check: float | None = None

    def check_at(self, moment: float) -> None:
        """Ask for another plan at ``moment``, if that is still to come."""
        if moment > self.now and (self.next_check is None or moment < self.next_check):
            self.next_check = moment

    def hold(self, reason: str, message: str, view: ServiceView, slot: int = 0, *, final: bool = False) -> None:
        """Note a fault that no action can better now."""
        self.holds.append(Hold(reason, message, view.name, slot, final, failing=True))

    def wait(self, reason: str, message: str, view: ServiceView, slot: int = 0) -> None:
        """Note that things take their course."""
        self.holds.append(Hold(reason, message, view.name, slot))

    def name_of(self, service: str, slot: int) -> str:
        """The name of the container of a slot."""
        return f"{self.observed.name}-{service}-{slot}"

    def history(self, view: ServiceView, slot: int, digest: str) -> SlotHistory | None:
        """What happened in a slot to containers of this spec."""
        found = self.slots.get((view.name, slot))
        return found if found is not None and found.digest == digest else None

    def due(self, view: ServiceView, slot: int, digest: str) -> float:
        """When a slot may be filled with this spec; asks for a plan at that time."""
        history = self.history(view, slot, digest)
        if history is None:
            return self.now
        due = compute_due(history, self.name_of(view.name, slot), self.now, view.policy.delay)
        self.check_at(due)
        return due

    def start(self, view: ServiceView, action: StartContainer) -> str:
        """Add the start of a container."""
        self.actions.append(action)
        view.starts.append(action.id)
        return action.id

    def stop(
        self, container: ObservedContainer, cause: Cause, after: Sequence[str] = (), *, remove: bool = True
    ) -> str:
        """Add the stop of a container, and the removal of what is left of it."""
        identifier = f"stop/{container.id}"
        self.actions.append(
            StopContainer(
                id=identifier,
                cause=cause,
                after=tuple(after),
                container=container.id,
                service=container.service,
                slot=container.slot,
            )
        )
        if remove:
            self.remove(container, cause, (identifier,))
        return identifier

    def remove(self, container: ObservedContainer, cause: Cause, after: Sequence[str] = ()) -> None:
        """Add the removal of an ended container."""
        self.actions.append(
            RemoveContainer(
                id=f"remove/{container.id}",
                cause=cause,
                after=tuple(after),
                container=container.id,
                service=container.service,
                slot=container.slot,
            )
        )


def group_by_service(containers: Sequence[ObservedContainer], app: str) -> dict[str, list[ObservedContainer]]:
    """The containers that this app owns, by service; all others are dropped here and never seen by a rule."""
    found: dict[str, list[ObservedContainer]] = {}
    for container in containers:
        if container.app == app:
            found.setdefault(container.service, []).append(container)
    return found


def group_by_slot(containers: Sequence[ObservedContainer]) -> dict[int, list[ObservedContainer]]:
    """Containers by slot, oldest first in each."""
    if len(containers) > 1:
        containers = sorted(containers, key=lambda container: (container.created, container.id))
    found: dict[int, list[ObservedContainer]] = {}
    for container in containers:
        found.setdefault(container.slot, []).append(container)
    return found


def is_running(container: ObservedContainer) -> bool:
    """Whether it can be stopped: it runs and nobody asked it to stop."""
    return container.phase is Phase.RUNNING
