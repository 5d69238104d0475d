"""What a user means by the name of a container or a service."""

from __future__ import annotations

from collections.abc import Sequence

from agent.engine.model import ContainerRecord, ContainerState
from agent.errors import Conflict, NotFound

_LIVING = (ContainerState.RUNNING, ContainerState.STOPPING)


def find_targets(records: Sequence[ContainerRecord], name: str) -> tuple[ContainerRecord, ...]:
    """The container called ``name`` (id, name, id prefix) or all containers of that service, oldest first.

    A service is ``service`` or, when several apps have one so called, ``app/service``; ``app/`` is a whole app.
    An exact container name or id comes before a service, a service before an id prefix; of a dead container and its
    replacement the one that runs, else the newer, is meant. Raises NotFound, Conflict.
    """
    exact = tuple(record for record in records if name in (record.id, record.name))
    if exact:
        return (max(exact, key=lambda record: (record.state is ContainerState.RUNNING, record.created)),)
    found = tuple(record for record in records if _belongs(record, name))
    apps = sorted({record.config.owner.app for record in found if record.config.owner})
    if len(apps) > 1:
        raise Conflict(
            f"several apps have a service {name}: {', '.join(apps)}",
            reason="Ambiguous",
            hint=f"write {apps[0]}/{name}",
        )
    return found or _find_prefix(records, name)


def _belongs(record: ContainerRecord, name: str) -> bool:
    owner = record.config.owner
    return owner is not None and name in (owner.service, f"{owner.app}/{owner.service}", f"{owner.app}/")


def _find_prefix(records: Sequence[ContainerRecord], name: str) -> tuple[ContainerRecord, ...]:
    found = tuple(record for record in records if name and record.id.startswith(name))
    if len(found) > 1:
        raise Conflict(f"{name} is the beginning of {len(found)} ids", reason="Ambiguous", hint="write more of it")
    if not found:
        raise NotFound(f"no container or service {name}", hint="holdfast ps lists what there is")
    return found


def find_running(records: Sequence[ContainerRecord], name: str) -> ContainerRecord:
    """The one container to work in: of a service its running one of the lowest slot. Raises NotFound, Conflict."""
    found = find_targets(records, name)
    running = [record for record in found if record.state in _LIVING]
    if not running:
        raise Conflict(f"{found[-1].name} is {found[-1].state}, not running", reason="NotRunning")
    return min(running, key=lambda record: (record.state.value, record.config.owner.slot if record.config.owner else 0))


def follows(record: ContainerRecord, name: str) -> bool:
    """Whether a container that came later belongs to the service that ``name`` meant."""
    return _belongs(record, name)
