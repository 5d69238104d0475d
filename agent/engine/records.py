"""Container records to JSON and back, for the database."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agent.engine.model import (
    ContainerConfig,
    ContainerRecord,
    ContainerState,
    ExitStatus,
    MountConfig,
    MountKind,
    NetworkAttachment,
    Owner,
    ProcessConfig,
    ResourceConfig,
    SecurityConfig,
)

_PLAIN = frozenset({str, int, float, bool, tuple, type(None)})


def encode_record(record: ContainerRecord) -> dict[str, Any]:
    """The record as a JSON document; ``decode_record`` gives back an equal record."""
    return {
        "id": record.id,
        "config": encode_config(record.config),
        "state": record.state.value,
        "pid": record.pid,
        "ip": record.ip,
        "addresses": dict(record.addresses),
        "created": record.created,
        "started": record.started,
        "exit": dataclasses.asdict(record.exit) if record.exit else None,
    }


def decode_record(document: Mapping[str, Any]) -> ContainerRecord:
    """The record of a document made by ``encode_record``."""
    fields = dict(document)
    fields["config"] = _decode_config(fields["config"])
    fields["state"] = ContainerState(fields["state"])
    fields["exit"] = ExitStatus(**fields["exit"]) if fields["exit"] else None
    return ContainerRecord(**fields)


def encode_config(config: ContainerConfig) -> dict[str, Any]:
    """A container's configuration as a JSON document."""
    return {
        "name": config.name,
        "image": config.image,
        "image_name": config.image_name,
        "hostname": config.hostname,
        "process": _flat(config.process),
        "resources": _flat(config.resources),
        "security": _flat(config.security),
        "mounts": [_flat(mount) for mount in config.mounts],
        "networks": [_flat(network) for network in config.networks],
        "labels": dict(config.labels),
        "owner": _flat(config.owner) if config.owner else None,
    }


def _decode_config(document: Mapping[str, Any]) -> ContainerConfig:
    fields = dict(document)
    resources = dict(fields["resources"])
    resources["ulimits"] = tuple((name, soft, hard) for name, soft, hard in resources["ulimits"])
    fields["process"] = ProcessConfig(**_tuples(fields["process"]))
    fields["resources"] = ResourceConfig(**resources)
    fields["security"] = SecurityConfig(**_tuples(fields["security"]))
    fields["mounts"] = tuple(_decode_mount(mount) for mount in fields["mounts"])
    fields["networks"] = tuple(NetworkAttachment(**_tuples(network)) for network in fields["networks"])
    fields["owner"] = Owner(**fields["owner"]) if fields["owner"] else None
    return ContainerConfig(**fields)


def _decode_mount(document: Mapping[str, Any]) -> MountConfig:
    return MountConfig(**{**_tuples(document), "kind": MountKind(document["kind"])})


def _flat(value: Any) -> dict[str, Any]:
    found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {
        name: item if type(item) in _PLAIN or not isinstance(item, Mapping) else dict(item)
        for name, item in found.items()
    }


def _tuples(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(item) if isinstance(item, list) else item for name, item in document.items()}
