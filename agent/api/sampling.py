"""Makes the snapshot behind /metrics out of the controller's status and the engine's readings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.api.port import ContainersPort, EnginePort
from agent.engine.model import ContainerRecord, ContainerState
from agent.errors import HoldfastError
from agent.telemetry.samples import ConditionSample, ContainerSample, DiskSample, ServiceSample, Snapshot

_LIVING = (ContainerState.RUNNING, ContainerState.STOPPING)


def make_snapshot(status: Mapping[str, Any], converged: bool, engine: EnginePort, data_root: Path) -> Snapshot:
    """One moment: ``status`` as the controller gives it, cgroups and disk as the kernel has them. Blocking, short."""
    apps = status.get("apps", ())
    return Snapshot(
        services=tuple(sample for app in apps for sample in _sample_services(app)),
        conditions=tuple(
            ConditionSample(app["name"], condition["type"], condition["status"])
            for app in apps
            for condition in app.get("conditions", ())
        ),
        containers=tuple(_sample_containers(engine.containers)),
        disk=_sample_disk(data_root),
        store=engine.images.sample(),
        converged=converged,
        names_answered=not status.get("names"),
    )


def _sample_services(app: Mapping[str, Any]) -> Iterator[ServiceSample]:
    for service in app.get("services", ()):
        yield ServiceSample(app["name"], service["name"], service["desired"], service["running"], service["ready"])


def _sample_containers(containers: ContainersPort) -> Iterator[ContainerSample]:
    for record in containers.list():
        if record.state in _LIVING:
            try:
                yield _sample_container(record, containers)
            except HoldfastError:  # it ended between the list and the reading: it has no series any more
                continue


def _sample_container(record: ContainerRecord, containers: ContainersPort) -> ContainerSample:
    owner, stats = record.config.owner, containers.stats(record.id)
    return ContainerSample(
        id=record.id,
        name=record.name,
        app=owner.app if owner else "",
        service=owner.service if owner else "",
        started=record.started,
        cpu_seconds=stats.cpu_seconds,
        memory_bytes=stats.memory_bytes,
        memory_limit_bytes=stats.memory_limit_bytes,
        pids=stats.pids,
        oom_kills=stats.oom_kills,
        block_read_bytes=stats.block_read_bytes,
        block_written_bytes=stats.block_written_bytes,
        network_received_bytes=stats.network_received_bytes,
        network_sent_bytes=stats.network_sent_bytes,
    )


def _sample_disk(data_root: Path) -> DiskSample | None:
    try:
        found = os.statvfs(data_root)
    except OSError:
        return None
    return DiskSample(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
