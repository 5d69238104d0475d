"""Whether the host can take a revision: looked at before anything of it is begun. Pure but for what the host says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agent.controller.deploy.aims import Barrier, find_changed
from agent.controller.deploy.memorycheck import Neighbours, check_memory, describe_size
from agent.controller.deploy.revisions import AppRevision
from agent.controller.port import CapacityPort
from agent.controller.traffic.endpoints import Claim, claim_of, overlap
from agent.plan.actions import Hold
from agent.values import frozen

SMALLEST_ROOM = 64 << 20
SMALLEST_SHARE = 0.02
LOOK_AGAIN = 5.0


@frozen
class Ports:
    """Who has which ports of the host: the app itself and those that are deployed with it (``own``), and the revisions
    of ``others``, by app, that are in force or on their way to be; of those that are deployed with it, what they will
    be: apps of one group may swap their ports."""

    own: Iterable[Claim]
    others: Mapping[str, Iterable[AppRevision]]


@frozen
class Surroundings:
    """What else there is on the host: who has its ports, and who its memory."""

    ports: Ports
    neighbours: Neighbours


def check_host(
    wanted: AppRevision, base: AppRevision | None, around: Surroundings, capacity: CapacityPort, now: float
) -> Barrier | None:
    """What the host lacks for a revision that is to take the place of ``base``: memory, room, or a port, which another
    app or another program has."""
    fault = (
        check_memory(wanted, base, around.neighbours, capacity)
        or _check_room(wanted, base, capacity)
        or _check_ports(wanted, base, around.ports, capacity)
    )
    return Barrier(fault, now + LOOK_AGAIN) if fault is not None else None


def _check_room(wanted: AppRevision, base: AppRevision | None, capacity: CapacityPort) -> Hold | None:
    if not find_changed(wanted, base):
        return None
    try:
        free, total = capacity.room()
    except OSError as error:
        return Hold("InsufficientStorage", f"the data root cannot be read: {error.strerror}", failing=True)
    needed = int(min(SMALLEST_ROOM, total * SMALLEST_SHARE))
    if free >= needed:
        return None
    text = f"the data root has {describe_size(free)} left, and new containers need {describe_size(needed)}: make room"
    return Hold("InsufficientStorage", text, failing=True)


def _check_ports(wanted: AppRevision, base: AppRevision | None, ports: Ports, capacity: CapacityPort) -> Hold | None:
    own = {claim[1:] for claim in ports.own}
    own.update(claim[1:] for claim, _ in (claims_of(base) if base is not None else ()))
    taken = [(claim, app) for app, known in ports.others.items() for found in known for claim, _ in claims_of(found)]
    for claim, service in claims_of(wanted):
        name = f"{wanted.desired.name}/{service}"
        holder = next((app for other, app in taken if overlap(claim, other)), "")
        if holder:
            text = f"port {claim[0]}:{claim[1]}/{claim[2]} of service {name} is published by app {holder}"
            return Hold("PortConflict", text, service, final=True, failing=True)
        fault = "" if claim[1:] in own else capacity.port_fault(*claim)
        if fault:
            return Hold("PortConflict", f"service {name}: {fault}", service, final=True, failing=True)
    return None


def claims_of(revision: AppRevision) -> Iterator[tuple[Claim, str]]:
    """The host's ports that a revision publishes, with the service of each."""
    for name, service in revision.desired.app.services.items():
        for port in service.ports:
            yield claim_of(port), name
