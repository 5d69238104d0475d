"""A mount as the OCI runtime specification writes it (config.md, "Mounts")."""

from __future__ import annotations

from typing import Any

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
