"""What is known of a named volume, and which names there can be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

from agent.errors import NotFound, Refused
from agent.values import frozen

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}\Z")


@frozen
class VolumeRecord:
    """One named volume; ``created`` is epoch seconds."""

    name: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    created: float = 0.0


class VolumeNotFound(NotFound):
    """There is no such volume."""

    reason = "VolumeNotFound"

    def __init__(self, name: str) -> None:
        super().__init__(f"no volume {name}")


def check_name(name: str) -> str:
    """A volume name that is safe as a file name. Raises Refused."""
    if not _NAME.match(name):
        raise Refused(
            f"{name[:80]!r} is not a volume name",
            reason="InvalidVolumeName",
            hint="1 to 255 letters, digits, '_', '.' or '-', of which the first is a letter or digit",
        )
    return name


def encode_volume(record: VolumeRecord) -> dict[str, Any]:
    """The database form of a record."""
    return {"labels": dict(record.labels), "created": record.created}


def decode_volume(name: str, document: Mapping[str, Any]) -> VolumeRecord:
    """A record of its database form."""
    labels = {str(key): str(value) for key, value in document.get("labels", {}).items()}
    return VolumeRecord(name, MappingProxyType(labels), float(document.get("created", 0.0)))
