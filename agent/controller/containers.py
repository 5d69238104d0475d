"""From a service of the desired state to the engine's configuration of one container: pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from agent.engine.model import (
    ContainerConfig,
    MountConfig,
    MountKind,
    NetworkAttachment,
    Owner,
    ProcessConfig,
    ResourceConfig,
    SecurityConfig,
)
from agent.plan.actions import StartContainer
from agent.plan.wants import DesiredApp, networks_of
from agent.spec.model import Mount, Service


def compute_config(desired: DesiredApp, action: StartContainer) -> ContainerConfig:
    """The container that ``action`` starts."""
    service = desired.app.services[action.service]
    return ContainerConfig(
        name=action.name,
        image=action.image,
        image_name=desired.images[desired.image_keys[action.service]].reference,
        hostname=service.hostname or action.name,
        process=_process(service),
        resources=_resources(service),
        security=_security(service),
        mounts=tuple(_mount(desired, action, mount) for mount in service.mounts),
        networks=tuple(_attachment(desired, service, key) for key in networks_of(service)),
        labels=_labels(desired, action, service),
        owner=Owner(
            app=desired.name,
            service=action.service,
            slot=action.slot,
            revision=desired.revision,
            spec_digest=action.digest,
            cause=f"{action.cause.kind}: {action.cause.message}",
        ),
    )


def _process(service: Service) -> ProcessConfig:
    return ProcessConfig(
        entrypoint=service.entrypoint,
        command=service.command,
        environment=dict(service.environment),
        user=service.user,
        working_dir=service.working_dir,
        init=service.init,
        stop_signal=service.stop_signal,
        stop_grace=service.stop_grace_period,
    )


def _resources(service: Service) -> ResourceConfig:
    return ResourceConfig(
        cpus=service.cpus,
        memory=service.memory,
        pids=service.pids,
        memory_reservation=service.memory_reservation,
        shm_size=service.shm_size,
        ulimits=tuple(service.ulimits),
    )


def _security(service: Service) -> SecurityConfig:
    return SecurityConfig(
        cap_add=tuple(service.cap_add),
        cap_drop=tuple(service.cap_drop),
        no_new_privileges=service.no_new_privileges,
        seccomp=service.seccomp,
        read_only=service.read_only,
        sysctls=dict(service.sysctls),
    )


def _mount(desired: DesiredApp, action: StartContainer, mount: Mount) -> MountConfig:
    return MountConfig(
        kind=MountKind(mount.kind),
        destination=mount.target,
        source=_source(desired, action, mount),
        read_only=mount.read_only,
        propagation=mount.propagation or "rprivate",
        create_source=mount.create_host_path,
        copy_up=not mount.nocopy,
        subpath=mount.subpath or "",
        size=mount.size,
        mode=mount.mode,
    )


def _source(desired: DesiredApp, action: StartContainer, mount: Mount) -> str:
    """A bind's path, a volume's real name, nothing for memory. A volume without a name belongs to the slot."""
    if mount.kind != "volume":
        return mount.source or ""
    if mount.source:
        return desired.volume(mount.source).name
    return f"{action.name}_{hashlib.sha256(mount.target.encode()).hexdigest()[:12]}"


def _attachment(desired: DesiredApp, service: Service, key: str) -> NetworkAttachment:
    return NetworkAttachment(network=desired.network(key).name, aliases=tuple(service.networks.get(key, ())))


def _labels(desired: DesiredApp, action: StartContainer, service: Service) -> Mapping[str, str]:
    """The user's labels and those that tools for Compose look for; nothing is ever decided from them."""
    return {
        **service.labels,
        "com.docker.compose.project": desired.name,
        "com.docker.compose.service": action.service,
        "com.docker.compose.container-number": str(action.slot),
        "com.docker.compose.config-hash": action.digest,
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.project.config_files": desired.app.file,
        "io.holdfast.app": desired.name,
        "io.holdfast.service": action.service,
        "io.holdfast.slot": str(action.slot),
        "io.holdfast.revision": desired.revision,
    }
