"""What to do about a data root that is too full for an agent to start."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from agent.errors import HoldfastError, Waiting
from agent.image.errors import InsufficientStorage
from agent.store.layout import DataLayout

NEEDED = 1 << 20


@contextlib.contextmanager
def full_disk_explained(layout: DataLayout) -> Iterator[None]:
    """Say of the error of a full disk what may be removed by hand, while no agent runs that could."""
    try:
        yield
    except HoldfastError as error:
        if error.reason != InsufficientStorage.reason:
            raise
        status = os.statvfs(layout.root)
        free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
        raise Waiting(
            f"the file system of the data root {layout.root} is full: {free >> 10} KiB are free of {total >> 20} MiB, "
            f"and to start takes {NEEDED >> 10} KiB",
            reason=error.reason,
            hint=f"make it larger, or remove what is not Holdfast's; of its own {layout.content}/ingest/* (partial "
            f"downloads) and {layout.logs}/* (logs of containers that are gone) are needed by nothing",
        ) from error
