"""Taking away what a container consisted of, now or after a crash. Everything here may be done again."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from agent.engine.parts import Parts
from agent.errors import NotFound
from agent.kernel.removal import discard_tree

_TRASH = ".trash-"


class Cleaner:
    """Thread-safe; calls block."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def release(self, container_id: str) -> None:
        """Give back what a container does not need any more that has ended or never began; its files and logs stay.

        Raises HoldfastError.
        """
        self._parts.networks.detach(container_id)
        with contextlib.suppress(NotFound):
            self._parts.keeper.delete(container_id)
        self._parts.cgroups.remove(container_id)

    def erase(self, container_id: str) -> None:
        """Take everything away but the record of a container that has ended or never began. Raises HoldfastError."""
        self.release(container_id)
        self.discard(container_id)

    def discard(self, container_id: str) -> None:
        """Take the directories of a released container away. Raises OSError."""
        discard_tree(self._parts.run.bundle(container_id))
        directory = self._parts.layout.container(container_id)
        trash = directory.with_name(f"{_TRASH}{container_id}")
        with contextlib.suppress(FileNotFoundError):
            directory.rename(trash)
            discard_tree(trash)

    def sweep(self, known: Collection[str]) -> None:
        """Remove what belongs to no container: the leftovers of a crash."""
        self._parts.cgroups.sweep(known)
        for directory in (self._parts.layout.containers, self._parts.run.bundles):
            for path in directory.iterdir():
                if path.name not in known:
                    discard_tree(path)
