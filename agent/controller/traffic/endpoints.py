"""Which address answers for what: published ports and service names, out of containers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType

from agent.engine.model import ContainerRecord, PublishedPort
from agent.plan.observed import Health, ObservedContainer, Phase
from agent.plan.wants import DesiredApp, networks_of
from agent.spec.model import Port
from agent.values import frozen

ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})
Claim = tuple[str, int, str]
_UNKNOWN: Mapping[str, str] = MappingProxyType({})


@frozen
class AppEndpoints:
    """What one app wants published, by claim (host address, port, protocol), and its names by network.

    ``services`` says which service each claim is for, ``clash`` that two of its own services want the same.
    """

    ports: Mapping[Claim, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    services: Mapping[Claim, str] = field(default_factory=dict)
    names: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    clash: str = ""


@frozen
class _Replica:
    """A running container: whether it may take traffic, and the port of its own that each claim leads to."""

    record: ContainerRecord
    ready: bool
    targets: Mapping[Claim, int]


def compute_endpoints(
    desired: DesiredApp,
    containers: Iterable[tuple[ObservedContainer, ContainerRecord]],
    digests: Mapping[str, str] = _UNKNOWN,
    older: DesiredApp | None = None,
) -> AppEndpoints:
    """Only ready replicas take published traffic; a name stands for the ready ones too, or, while there are none,
    for those that run (a service may have to find itself before it is ready).

    While a deploy is under way (``older`` is what it comes from, ``digests`` what it leads to) a container of the old
    spec is reached at that one's ports, and a new one without a healthcheck takes traffic only when the old one goes.
    """
    serving = _find_replicas(desired, list(containers), digests, older)
    ports: dict[Claim, tuple[tuple[str, int], ...]] = {}
    services: dict[Claim, str] = {}
    names: dict[str, dict[str, tuple[str, ...]]] = {}
    clash = ""
    for name, service in desired.app.services.items():
        running = serving.get(name, [])
        ready = [replica for replica in running if replica.ready]
        for port in service.ports:
            claim = claim_of(port)
            reached = ((replica.record.ip, replica.targets.get(claim, port.target)) for replica in ready)
            ports.setdefault(claim, tuple((address, target) for address, target in reached if address))
            first = services.setdefault(claim, name)
            if first != name:
                clash = f"port {claim[0]}:{claim[1]}/{claim[2]} is published by service {first} and by service {name}"
        _add_names(names, desired, name, [replica.record for replica in ready or running])
    return AppEndpoints(ports, services, names, clash)


def claim_of(port: Port) -> Claim:
    """What a published port claims of the host."""
    return (port.host_ip or "0.0.0.0", port.published, port.protocol)


def _find_replicas(
    desired: DesiredApp,
    containers: Sequence[tuple[ObservedContainer, ContainerRecord]],
    digests: Mapping[str, str],
    older: DesiredApp | None,
) -> dict[str, list[_Replica]]:
    """The running containers by service."""
    running = [(container, record) for container, record in containers if container.phase is Phase.RUNNING]
    served = {
        (container.service, container.slot)
        for container, _ in running
        if older is not None and container.ready and container.digest != digests.get(container.service)
    }
    found: dict[str, list[_Replica]] = {}
    for container, record in running:
        outdated = older is not None and container.digest != digests.get(container.service)
        unproven = container.health is Health.NONE and not outdated
        waits = unproven and (container.service, container.slot) in served
        app = older.app if outdated and older is not None and container.service in older.app.services else desired.app
        service = app.services.get(container.service)
        targets = {claim_of(port): port.target for port in service.ports} if service is not None else {}
        replica = _Replica(record, container.ready and not waits, targets)
        found.setdefault(container.service, []).append(replica)
    return found


def _add_names(
    names: dict[str, dict[str, tuple[str, ...]]], desired: DesiredApp, name: str, records: Sequence[ContainerRecord]
) -> None:
    """A name without addresses is no name: so nothing is said of a network before a container is on it."""
    service = desired.app.services[name]
    for key in networks_of(service):
        network = desired.network(key).name
        addresses = tuple(record.addresses[network] for record in records if record.addresses.get(network))
        for alias in (name, *service.networks.get(key, ())) if addresses else ():
            table = names.setdefault(network, {})
            table[alias] = tuple(dict.fromkeys((*table.get(alias, ()), *addresses)))


def compute_published(
    apps: Mapping[str, AppEndpoints], held: Mapping[Claim, str]
) -> tuple[tuple[PublishedPort, ...], dict[Claim, str], dict[str, str]]:
    """The whole balancer map, who holds which claim now, and what to tell the apps that came second.

    ``held`` says which app had each claim until now: it keeps it for as long as it wants it.
    """
    wanted = [(held.get(claim) != app, app, claim) for app, found in apps.items() for claim in found.ports]
    holders: dict[Claim, str] = {}
    by_port: dict[tuple[int, str], list[Claim]] = {}
    refused: dict[str, str] = {app: found.clash for app, found in apps.items() if found.clash}
    for _, app, claim in sorted(wanted):
        rival = next((other for other in by_port.get(claim[1:], ()) if overlap(other, claim)), None)
        if rival is not None:
            refused.setdefault(app, _describe_conflict(apps, app, claim, holders[rival]))
            continue
        holders[claim] = app
        by_port.setdefault(claim[1:], []).append(claim)
    published = tuple(
        PublishedPort(claim[0], claim[1], claim[2], apps[app].ports[claim]) for claim, app in sorted(holders.items())
    )
    return published, holders, refused


def overlap(one: Claim, other: Claim) -> bool:
    """Whether two claims cannot both be had."""
    return one[1:] == other[1:] and (one[0] == other[0] or bool(ANY_ADDRESS & {one[0], other[0]}))


def _describe_conflict(apps: Mapping[str, AppEndpoints], app: str, claim: Claim, holder: str) -> str:
    address, port, protocol = claim
    return (
        f"port {address}:{port}/{protocol} of service {app}/{apps[app].services[claim]} "
        f"is already published by app {holder}; only {holder} answers there"
    )


def compute_names(apps: Iterable[AppEndpoints]) -> dict[str, dict[str, tuple[str, ...]]]:
    """The service names of every network; apps that share a network share its names."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for endpoints in apps:
        for network, names in endpoints.names.items():
            table = found.setdefault(network, {})
            for name, addresses in names.items():
                table[name] = (*table.get(name, ()), *addresses)
    return found
