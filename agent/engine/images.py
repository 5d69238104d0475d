"""Images as the engine's callers see them: the store and the builder behind one door."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from agent.builder.builder import Builder
from agent.engine.model import BuildConfig, ImageRecord
from agent.image.records import ImageEntry
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.oci.reference import parse_reference

Progress = Callable[[Any], None]


class Images:
    """Local images and the ways to get more. Thread-safe and blocking."""

    def __init__(self, store: ImageStore, builder: Builder) -> None:
        self._store = store
        self._builder = builder

    def list(self) -> tuple[ImageRecord, ...]:
        """Every local image."""
        return tuple(_describe(entry) for entry in self._store.all())

    def find(self, name_or_id: str) -> ImageRecord | None:
        """The local image of a reference, an id or a unique beginning of it. Raises Conflict when not unique."""
        entry = self._store.find(name_or_id)
        return _describe(entry) if entry is not None else None

    def config(self, image_id: str) -> ImageConfig:
        """What a local image says of itself. Raises NotFound."""
        return self._store.config(image_id)

    def pull(
        self,
        reference: str,
        *,
        policy: str = "missing",
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        """Make an image local; ``progress`` gets ``image.progress.PullProgress``. Raises HoldfastError."""
        return _describe(self._store.pull(reference, policy=policy, progress=progress, cancel=cancel))

    def build(
        self, config: BuildConfig, *, progress: Progress | None = None, cancel: threading.Event | None = None
    ) -> ImageRecord:
        """Build and tag an image. Raises HoldfastError."""
        return _describe(self._builder.build(config, progress=progress, cancel=cancel))

    def build_digest(self, config: BuildConfig) -> str:
        """The digest of everything that build would read. Raises HoldfastError."""
        return self._builder.digest(config)


def _describe(entry: ImageEntry) -> ImageRecord:
    return ImageRecord(
        id=entry.id,
        digest=entry.digest,
        names=tuple(parse_reference(name).familiar() for name in entry.names),
        size=entry.size,
        created=entry.created,
        pulled=entry.pulled,
    )
