"""How fast the containers of a service are exchanged: parallelism, delay, order, canary steps. And who has arrived."""

from __future__ import annotations

import math

from agent.plan.draft import Draft, ServiceView
from agent.plan.history import CLOCK_SLACK
from agent.plan.observed import Health, ObservedContainer, Phase
from agent.spec.model import Mount, Service, UpdateConfig
from agent.values import frozen


def compute_update(service: Service | None, *, reverting: bool) -> UpdateConfig:
    """The configuration that counts for the way a deploy goes."""
    if service is None:
        return UpdateConfig()
    return service.rollback if reverting else service.update


def why_stop_first(service: Service | None, config: UpdateConfig) -> str:
    """Why the old container of a slot has to go before the new one comes; empty when it need not.

    Two containers at once may harm what only one is meant to write: the volume of a service with one replica, and
    the nameless volume that belongs to a slot.
    """
    if config.order is not None:
        return "its order is stop-first" if config.order == "stop-first" else ""
    for mount in service.mounts if service else ():
        if _has_one_writer(mount, service.replicas if service else 0):
            return f"{mount.target} has one writer"
    return ""


def _has_one_writer(mount: Mount, replicas: int) -> bool:
    if mount.read_only or mount.kind == "tmpfs":
        return False
    nameless = mount.kind == "volume" and not mount.source
    return nameless or replicas <= 1


def has_arrived(container: ObservedContainer, view: ServiceView, draft: Draft) -> bool:
    """Whether a container may take another's place: it is ready and, without a healthcheck, was up for ``monitor``.

    Outside of a deploy that counts too, as long as one of another spec serves in its slot: a deploy may have put up
    with failures there.
    """
    if not container.ready:
        return False
    proving = draft.course.deploying or _has_elder(container, view)
    if not proving or container.health is not Health.NONE:
        return True
    if container.started > draft.now + CLOCK_SLACK:  # the clock was set back: nobody knows
        return True
    due = container.started + view.config.monitor
    draft.check_at(due)
    return due <= draft.now


def _has_elder(container: ObservedContainer, view: ServiceView) -> bool:
    others = view.slots.get(container.slot, ())
    return any(other.ready and other.digest != container.digest for other in others)


def is_late(container: ObservedContainer, view: ServiceView, draft: Draft) -> bool:
    """Whether a container that is not ready had all the time that its service gives it for that."""
    deadline = view.service.deadline if view.service is not None else 0.0
    if container.phase is not Phase.RUNNING or not deadline or container.started > draft.now + CLOCK_SLACK:
        return False
    due = container.started + deadline
    draft.check_at(due)
    return due <= draft.now


def arrival(container: ObservedContainer, view: ServiceView) -> float:
    """When a container that has arrived did so (epoch seconds)."""
    if container.health is Health.NONE:
        return container.started + view.config.monitor
    return max(container.healthy_at, container.started)


@frozen
class Pace:
    """How many replacements may begin now, and, when none may, why and until when (epoch seconds, inf: an event)."""

    count: int
    until: float = math.inf
    message: str = ""


def compute_pace(view: ServiceView, draft: Draft, in_flight: int, arrived: list[ObservedContainer]) -> Pace:
    """Look at what is on its way (``in_flight`` slots) and at what has arrived with the desired spec."""
    replicas, config = view.replicas, view.config
    free = (config.parallelism or replicas) - in_flight
    if free <= 0:
        return Pace(0, message="others are on their way")
    if not arrived or not draft.course.deploying:
        return Pace(min(free, _canary_room(view, 0, in_flight)))
    last = min(max(arrival(container, view) for container in arrived), draft.now)
    if config.delay and draft.now < last + config.delay:
        return Pace(0, last + config.delay, f"the next batch begins in {last + config.delay - draft.now:.1f} s")
    if config.delay and in_flight:
        return Pace(0, message="the batch is not complete")
    canary = view.service.canary if view.service else None
    steps = _canary_counts(view)
    if canary is not None and len(arrived) in steps and not in_flight and draft.now < last + canary.pause:
        wait = last + canary.pause - draft.now
        return Pace(0, last + canary.pause, f"{len(arrived)} of {replicas} are watched for {wait:.1f} s more")
    return Pace(min(free, _canary_room(view, len(arrived), in_flight)))


def _canary_counts(view: ServiceView) -> tuple[int, ...]:
    canary = view.service.canary if view.service else None
    return tuple(math.ceil(step * view.replicas) for step in canary.steps) if canary else ()


def _canary_room(view: ServiceView, arrived: int, in_flight: int) -> int:
    """How many more may be begun below the next step."""
    step = next((count for count in _canary_counts(view) if count > arrived), view.replicas)
    return max(0, step - arrived - in_flight)
