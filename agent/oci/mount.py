"""A mount as the OCI runtime specification writes it (config.md, "Mounts")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.oci.document import InvalidDocument, take_text, take_texts
from agent.values import frozen


@frozen
class Mount:
    """``type`` is a file system type or ``bind``; ``options`` are those of mount(8)."""

    type: str
    source: str
    destination: str
    options: tuple[str, ...] = ()


def encode_mount(mount: Mount) -> dict[str, Any]:
    """The mapping that config.json holds."""
    return {
        "destination": mount.destination,
        "type": mount.type,
        "source": mount.source,
        "options": list(mount.options),
    }


def decode_mount(document: Mapping[str, Any]) -> Mount:
    """The mount that ``encode_mount`` wrote. Raises InvalidDocument."""
    destination = take_text(document, "destination")
    if not destination.startswith("/"):
        raise InvalidDocument("a mount's destination is not an absolute path")
    options = take_texts(document, "options") or ()
    return Mount(take_text(document, "type"), take_text(document, "source"), destination, options)
