"""Sources to their place in the image, archives unpacked on the way."""

from __future__ import annotations

import os
import stat

from agent.builder.faults import ContextChanged
from agent.builder.files.archives import is_archive, unpack_archive
from agent.builder.files.copier import Copier
from agent.builder.files.entries import Source
from agent.builder.files.scan import Keeps
from agent.builder.files.supplies import Batch, tree_of
from agent.builder.workspace import StepDirectory
from agent.oci.digest import render_shortened

_ARCHIVE = Keeps(owners=True, times=True)


class Placing:
    """Puts everything that one step copies at ``destination``; used once."""

    def __init__(self, directory: StepDirectory, copier: Copier, destination: str) -> None:
        self._directory = directory
        self._copier = copier
        self._destination = destination
        self._archives = 0

    def place(self, batch: Batch) -> None:
        """Copy or unpack each source. Raises Refused, ContextChanged, InsufficientStorage, OSError."""
        for source in batch.sources:
            if not (batch.unpack and stat.S_ISREG(source.entries[0].mode) and self._unpack(batch, source)):
                self._copier.copy(batch.tree, source, self._destination)

    def _unpack(self, batch: Batch, source: Source) -> bool:
        """Unpack a source, always into a directory; False when it is no archive."""
        entry = source.entries[0]
        fd = batch.tree.open_file(source, entry)
        try:
            if not is_archive(fd):
                return False
            target = self._directory.make(f"archive-{self._archives}")
            self._archives += 1
            shown = render_shortened(source.name)
            if unpack_archive(fd, target, shown) != entry.content:
                raise ContextChanged(f"{shown} in {batch.tree.what} changed while it was unpacked")
        finally:
            os.close(fd)
        with tree_of(target, shown, _ARCHIVE) as tree:
            (unpacked,) = tree.find("/")
            self._copier.copy(tree, unpacked, self._destination)
        return True
