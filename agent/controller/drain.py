"""The time between taking a container out of traffic and asking it to end: its connections may finish.

How long, at the most: its service's ``drain``. One second where waiting helps nobody: for a container that fails its
healthcheck or its liveness, for a service or an app that was removed, and where nothing else serves and a successor
waits for the end. ``down`` and containers that have ended wait for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agent.controller.parts import Shared
from agent.errors import Conflict, HoldfastError, NotFound
from agent.plan.actions import Action, StartContainer
from agent.plan.observed import Health, ObservedContainer
from agent.plan.wants import DesiredApp

BRIEF_SECONDS = 1.0
QUIET_LOOKS = 2
_FIRST_SECONDS, _LONGEST_SECONDS = 0.1, 1.0


def compute_drain(
    container_id: str, observed: Iterable[ObservedContainer], desired: DesiredApp | None, actions: Iterable[Action]
) -> float:
    """For how many seconds at the most the connections of a container that is to be stopped are waited for."""
    containers = tuple(observed)
    container = next((found for found in containers if found.id == container_id), None)
    if container is None:
        return 0.0
    service = desired.app.services.get(container.service) if desired is not None else None
    if service is None:
        return BRIEF_SECONDS
    awaited = any(isinstance(a, StartContainer) and f"stop/{container_id}" in a.after for a in actions)
    alone = not any(c.ready and c.service == container.service and c.id != container_id for c in containers)
    if container.health is Health.UNHEALTHY or (awaited and alone):
        return min(service.drain, BRIEF_SECONDS)
    return service.drain


async def drain(shared: Shared, container_id: str, seconds: float, hurry: asyncio.Event) -> bool:
    """Wait until nobody is connected to a container, ``hurry`` is set, or the time is up, which is False.

    One on which nothing listens is not waited for; of one that is listened on nobody may be seen twice, for whoever
    had just looked up its address. Sockets that cannot be counted are waited for all the time.
    """
    loop = asyncio.get_running_loop()
    deadline, wait, quiet = loop.time() + seconds, _FIRST_SECONDS, 0
    while True:
        try:
            found = await shared.gate.run(shared.engine.containers.count_inbound, container_id)
        except (NotFound, Conflict):
            return True
        except (HoldfastError, OSError):
            quiet = 0
        else:
            quiet = 0 if found.connections else quiet + 1
            if not found.listening or quiet >= QUIET_LOOKS:
                return True
        left = deadline - loop.time()
        if left <= 0:
            return False
        try:
            async with asyncio.timeout(min(wait, left)):
                await hurry.wait()
        except TimeoutError:
            wait = min(wait * 1.5, _LONGEST_SECONDS) if not quiet else _FIRST_SECONDS
        else:
            return True
