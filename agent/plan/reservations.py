"""How much memory of the host is reserved for the containers of an app: as it is, and at most while one version of it
takes the place of another. Pure.

Containers that only finish their connections are not counted, as they are not when the planner looks for room.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from agent.plan.pace import why_stop_first
from agent.spec.model import App, Service, UpdateConfig
from agent.values import frozen

Alive = Callable[[str], int]
"""How many containers of a service have processes now."""


@frozen
class Reserved:
    """What one service reserves: ``each`` container of the newest version, ``replicas`` of them; ``total`` is the most
    at any moment. All in bytes."""

    service: str
    each: int
    replicas: int
    total: int

    @property
    def beside(self) -> int:
        """The bytes of ``total`` that are taken only while old and new containers live side by side."""
        return max(0, self.total - self.each * self.replicas)


def compute_steady(app: App, alive: Alive) -> int:
    """The bytes that the containers of an app reserve while nothing of it is exchanged."""
    return sum(_each(service) * _count(service, alive) for service in app.services.values())


def compute_peak(newer: App, older: App | None, changed: Collection[str], alive: Alive) -> list[Reserved]:
    """What each service reserves at most while the newer app takes the place of the older one, the most first; the way
    back, which nothing may forbid, is not looked at. ``changed`` services get other containers. Those that only the
    older one has are there until the newer one is final."""
    before = older.services if older is not None else {}
    found = [
        _compute_service(name, service, before.get(name), name in changed, alive)
        for name, service in newer.services.items()
    ]
    for name in before.keys() - newer.services.keys():
        count = _count(before[name], alive)
        found.append(Reserved(name, 0, 0, _each(before[name]) * count))
    return sorted((one for one in found if one.total), key=lambda one: (-one.total, one.service))


def _compute_service(name: str, new: Service, old: Service | None, changed: bool, alive: Alive) -> Reserved:
    count = _count(old, alive) if old is not None else 0
    surge = 0
    if changed and count:
        surge = _compute_surge(new, new.update)
    most = max(count, new.replicas) + surge
    fresh, former = _each(new), _each(old) if old is not None else 0
    full_of_new = fresh * new.replicas + former * min(count, most - new.replicas)
    full_of_old = former * count + fresh * min(new.replicas, most - count)
    return Reserved(name, fresh, new.replicas, max(full_of_new, full_of_old))


def _compute_surge(service: Service, config: UpdateConfig) -> int:
    """How many containers live beside the desired number of them."""
    if why_stop_first(service, config):
        return 0
    return min(config.parallelism or service.replicas, service.replicas)


def _each(service: Service) -> int:
    return service.memory_reservation or 0


def _count(service: Service, alive: Alive) -> int:
    """Of what ends by itself only those count that have not ended."""
    return service.replicas if service.restart.condition == "any" else min(service.replicas, alive(service.name))
