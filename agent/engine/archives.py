"""Images and containers to and from tars: save, load, import, export."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from agent.builder.dockerfile.changes import apply_changes
from agent.engine.directories import UPPER
from agent.engine.images import Images
from agent.engine.model import ContainerRecord, ImageRecord
from agent.errors import NotFound, Refused
from agent.image.archive.export import stream_tree
from agent.image.archive.load import Naming
from agent.image.archive.save import FORMATS, Format
from agent.image.errors import ImageNotFound
from agent.image.store import ImageStore
from agent.oci.imageconfig import HistoryEntry, ImageConfig
from agent.oci.platform import compute_platform
from agent.oci.reference import parse_reference
from agent.runtime.imageview import merged_view, open_merged
from agent.store.layout import DataLayout
from agent.values import frozen

Chunks = Generator[bytes, None, None]
Progress = Callable[[Any], None]


@frozen
class LoadOutcome:
    """An image that was loaded, and the names that its archive has for it and that it did not get."""

    image: ImageRecord
    offered: tuple[str, ...]


class Archives:
    """Thread-safe and blocking."""

    def __init__(self, store: ImageStore, layout: DataLayout, images: Images) -> None:
        self._store = store
        self._layout = layout
        self._images = images

    def _describe(self, image_id: str) -> ImageRecord:
        record = self._images.find(image_id)
        if record is None:
            raise ImageNotFound(f"the image {image_id} was removed a moment ago", hint="load it again")
        return record

    def save(self, names: Sequence[str], form: str) -> Chunks:
        """The tar of some images in chunks; close it. Raises HoldfastError, most of it before the first chunk."""
        known: Format | None = next((known for known in FORMATS if known == form), None)
        if known is None or not names:
            raise Refused(f"name an image, and one of the formats {', '.join(FORMATS)}", reason="InvalidRequest")
        return self._store.archives.save(names, known)

    def load(
        self,
        chunks: Chunks,
        names: Sequence[str],
        *,
        everything: bool = False,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[LoadOutcome, ...]:
        """Every image of an archive, under the ``names`` that were said, or with ``everything`` under all of its own.

        Raises HoldfastError.
        """
        naming = Naming(tuple(names), everything)
        loaded = self._store.archives.load(chunks, naming, progress=progress, cancel=cancel)
        return tuple(
            LoadOutcome(self._describe(image.entry.id), tuple(parse_reference(n).familiar() for n in image.offered))
            for image in loaded
        )

    def import_tar(
        self,
        chunks: Chunks,
        name: str | None,
        changes: Sequence[str] = (),
        *,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        """An image of one layer: the root file system in a tar, and what ``changes`` say. Raises HoldfastError."""
        host = compute_platform(os.uname().machine)
        config = apply_changes(ImageConfig(host.architecture, host.os, host.variant), changes, host)
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        config = replace(config, created=moment, history=(HistoryEntry(moment, comment="Imported from a tar"),))
        entry = self._store.archives.import_tar(chunks, config, name, progress=progress, cancel=cancel)
        return self._describe(entry.id)

    def export_image(self, name: str) -> Chunks:
        """The root file system of an image as a tar in chunks; close it. Raises HoldfastError."""
        image = self._images.find(name)
        if image is None:
            raise ImageNotFound(f"the image {name[:200]!r} is not local", hint="holdfast image ls lists all")
        with self._store.held(image.id), merged_view(self._store.lowerdirs(image.id)) as view:
            yield from stream_tree(view)

    def export(self, record: ContainerRecord) -> Chunks:
        """The root file system of a container, running or not, as a tar in chunks; close it.

        What is mounted in it (volumes, bind mounts, /proc) is left out. Raises HoldfastError.
        """
        with self._store.held(record.config.image):
            lower = self._store.lowerdirs(record.config.image)
            upper = self._layout.container(record.id) / UPPER
            try:
                view = open_merged((upper, *lower, self._layout.mount_points))
            except FileNotFoundError:
                raise NotFound(f"{record.name} has gone", hint="holdfast ps lists what there is") from None
            try:
                yield from stream_tree(view)
            finally:
                os.close(view)
