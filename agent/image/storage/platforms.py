"""Images for other platforms than this host's: what is asked for, and what of it is local already."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace

from agent.errors import HoldfastError, Unsupported
from agent.image.storage.records import ImageEntry
from agent.oci.digest import render_shortened
from agent.oci.imageconfig import ImageConfig
from agent.oci.platform import Platform, compute_platform, compute_rank, parse_platform
from agent.oci.reference import Reference


def require_platform(text: str | None) -> Platform | None:
    """The platform that a text names; None for none. Raises Unsupported."""
    if not text:
        return None
    found = parse_platform(text)
    if found is None:
        raise Unsupported(
            f"{render_shortened(text)} is no platform",
            reason="InvalidPlatform",
            hint="write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64",
        )
    return found


def host_platform() -> Platform:
    """What this host runs."""
    return compute_platform(os.uname().machine)


def platform_of(config: ImageConfig) -> Platform | None:
    """What an image says it is made for; None when it says nothing."""
    if not config.os and not config.architecture:
        return None
    return Platform(config.os, config.architecture, config.variant)


def is_made_for(config: ImageConfig, wanted: Platform) -> bool:
    """Whether an image suits a platform, as far as it says: many say no variant, where their index does."""
    offered = platform_of(config)
    if offered is None:
        return True
    return compute_rank(replace(offered, variant=offered.variant or wanted.variant), wanted) is not None


def find_platform(
    entries: Iterable[ImageEntry],
    reference: Reference,
    wanted: Platform,
    read: Callable[[ImageEntry], ImageConfig],
) -> ImageEntry | None:
    """The local image of a reference that suits ``wanted`` best: under its name, or its name and a digest.

    Of equals, one that says its variant, and the one that was pulled last.
    """
    name = str(reference)
    ranked: list[tuple[int, bool, float, ImageEntry]] = []
    for entry in entries:
        if not any(known == name or known.startswith(f"{name}@") for known in entry.names):
            continue
        try:
            offered = platform_of(read(entry))
        except HoldfastError:
            continue
        rank = compute_rank(offered, wanted) if offered is not None else None
        if offered is not None and rank is not None:
            ranked.append((rank, not offered.variant, -entry.pulled, entry))
    return min(ranked, key=lambda found: found[:3])[3] if ranked else None
