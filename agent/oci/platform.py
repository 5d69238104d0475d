"""Platforms: which entry of a multi-platform index this host can run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.oci.document import take_text
from agent.values import frozen

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm", "armel": "arm"}
_DEFAULT_VARIANTS = {"arm64": 8, "arm": 7, "amd64": 1}


@frozen
class Platform:
    """An operating system and processor in Go's names (``linux``, ``amd64``, ``v8``)."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        parts = (self.os, self.architecture, self.variant)
        return "/".join(part for part in parts if part)


def compute_platform(machine: str) -> Platform:
    """The platform of a Linux host from ``uname -m``; an unknown machine keeps its own name."""
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def decode_platform(document: Mapping[str, Any]) -> Platform:
    """The platform of an index entry or an image config. Raises InvalidDocument."""
    architecture = take_text(document, "architecture").lower()
    return Platform(
        take_text(document, "os").lower(),
        _ALIASES.get(architecture, architecture),
        take_text(document, "variant").lower(),
    )


def parse_platform(text: str) -> Platform | None:
    """``linux/amd64``, ``linux/arm64/v8`` or only ``amd64``; None for anything else."""
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(parts):
        return None
    if len(parts) == 1:
        parts = ["linux", *parts] if parts != ["linux"] else []
    return Platform(parts[0], _ALIASES.get(parts[1], parts[1]), *parts[2:]) if len(parts) > 1 else None


def encode_platform(platform: Platform) -> dict[str, str]:
    """The mapping an index holds."""
    document = {"os": platform.os, "architecture": platform.architecture}
    return document | ({"variant": platform.variant} if platform.variant else {})


def compute_rank(offered: Platform, host: Platform) -> int | None:
    """How well ``offered`` suits ``host``: 0 is best, None cannot run.

    A variant runs on itself and on every later one of the same architecture; the nearest one wins.
    """
    if (offered.os, offered.architecture) != (host.os, host.architecture):
        return None
    distance = _level(host) - _level(offered)
    return distance if distance >= 0 else None


def _level(platform: Platform) -> int:
    digits = platform.variant.removeprefix("v").split(".")[0]
    if not digits.isascii() or not digits.isdigit() or len(digits) > 3:
        return _DEFAULT_VARIANTS.get(platform.architecture, 1) if not platform.variant else 1000
    return int(digits)
