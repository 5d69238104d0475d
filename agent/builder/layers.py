"""Steps to layers: found in the cache by content, or made, committed and remembered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from agent.builder.cache import LayerCache, compute_key
from agent.builder.copier import Copier, Dress, make_working_directory
from agent.builder.entries import Source, compute_content
from agent.builder.state import CopyStep, DirectoryStep
from agent.builder.tree import FileTree
from agent.builder.turns import Turns
from agent.builder.workspace import StepDirectory, step_directory
from agent.image.commit import LayerBlob
from agent.image.config import UnpackLimits
from agent.image.errors import translated_storage_errors
from agent.image.store import ImageStore
from agent.image.unpack import check_space
from agent.oci.digest import Digest
from agent.runtime.imageview import merged_view, open_inside
from agent.runtime.users import read_identity

Layers = tuple[LayerBlob, ...]


@dataclass(frozen=True)
class Made:
    """A step's layer, and whether it was there already; None when the step changed nothing."""

    layer: LayerBlob | None
    cached: bool = False
    key: str = ""


@dataclass(frozen=True)
class Terms:
    """How one build wants its layers: with times up to ``epoch`` (see epoch.py), and ``fresh`` or from the cache."""

    epoch: int | None = None
    fresh: bool = False


class LayerMaker:
    """Thread-safe. ``root`` is the directory for the steps under way."""

    def __init__(self, images: ImageStore, cache: LayerCache, root: Path, terms: Terms = Terms()) -> None:
        self._images = images
        self._root = root
        self._turns = Turns()
        self._terms = terms
        self.cache = cache

    def on(self, terms: Terms) -> LayerMaker:
        """The same for a build with terms of its own."""
        maker = copy(self)
        maker._terms = terms
        return maker

    def lower(self, layers: Layers) -> tuple[Path, ...]:
        """The layers for overlayfs, topmost first. Raises NotFound."""
        return tuple(self._images.snapshots.require(layer.chain_id) for layer in reversed(layers))

    @contextmanager
    def working(self, layers: Layers) -> Iterator[StepDirectory]:
        """A directory for a step upon these layers."""
        with step_directory(self._root, self.lower(layers)) as directory:
            yield directory

    def commit(self, directory: StepDirectory, layers: Layers) -> LayerBlob:
        """The upper directory becomes a layer."""
        with translated_storage_errors():
            directory.settle(self._terms.epoch)
        parents: list[Digest] = [layer.chain_id for layer in layers]
        return self._images.commit_layer(directory.upper, parents=parents)

    def find_or_make(self, key: str, make: Callable[[], LayerBlob], check: Callable[[], None]) -> Made:
        """The layer with this key. Of several builds that want the same one makes it, and the others wait for it."""
        if self._terms.epoch is not None:
            key = compute_key(kind="dated", key=key, epoch=self._terms.epoch)
        with self._turns.held(key, check):
            cached = None if self._terms.fresh else self.cache.find(key)
            if cached is not None:
                return Made(cached, cached=True, key=key)
            layer = make()
            self.cache.put(key, layer)
            return Made(layer, key=key)

    def make_directory(self, step: DirectoryStep, layers: Layers, check: Callable[[], None]) -> Made:
        """WORKDIR."""
        with merged_view(self.lower(layers)) as view:
            if _exists(view, step.path):
                return Made(None)

        def make() -> LayerBlob:
            with self.working(layers) as directory:
                with directory.mounted() as root:
                    make_working_directory(root, step.path)
                return self.commit(directory, layers)

        return self.find_or_make(compute_key(kind="directory", below=top_of(layers), path=step.path), make, check)

    def copy(self, step: CopyStep, layers: Layers, files: Files, check: Callable[[], None]) -> Made:
        """COPY."""
        dress = self._compute_dress(step, layers)
        key = compute_key(
            kind="copy",
            below=top_of(layers),
            content=files.content,
            destination=step.destination,
            dress=[dress.uid, dress.gid, dress.mode],
        )
        return self.find_or_make(key, lambda: self._copy(step, layers, files, dress), check)

    def _copy(self, step: CopyStep, layers: Layers, files: Files, dress: Dress) -> LayerBlob:
        sources = files.sources
        size = sum(entry.size for source in sources for entry in source.entries)
        with self.working(layers) as directory, translated_storage_errors():
            check_space(directory.path, size, UnpackLimits())
            with directory.mounted() as root:
                copier = Copier(root, dress)
                for source in sources:
                    copier.copy(files.tree, source, _settle_destination(step, sources))
            return self.commit(directory, layers)

    def _compute_dress(self, step: CopyStep, layers: Layers) -> Dress:
        """The owner by the image's own passwd and group. A lone number is the group's too, as for Docker."""
        if not step.owner:
            return Dress(mode=step.mode)
        text = f"{step.owner}:{step.owner}" if step.owner.isascii() and step.owner.isdigit() else step.owner
        with merged_view(self.lower(layers)) as view:
            identity = read_identity(view, text)
        return Dress(identity.uid, identity.gid, step.mode)


class Files:
    """What one COPY reads: searched and hashed when first needed, or known from an earlier build by ``known``."""

    def __init__(self, tree: FileTree, patterns: Sequence[str], known: str | None = None) -> None:
        self.tree = tree
        self._patterns = patterns
        self._found: tuple[Source, ...] | None = None
        self._content = known

    @property
    def sources(self) -> tuple[Source, ...]:
        """All sources. Raises NotFound, Refused, ContextChanged."""
        if self._found is None:
            self._found = tuple(source for pattern in self._patterns for source in self.tree.find(pattern))
        return self._found

    @property
    def content(self) -> str:
        """The digest of all that is copied."""
        if self._content is None:
            self._content = compute_content(self.sources)
        return self._content


def top_of(layers: Layers) -> str:
    """The chain ID of a stack of layers; empty for none."""
    return layers[-1].chain_id if layers else ""


def _settle_destination(step: CopyStep, sources: Sequence[Source]) -> str:
    """What several sources, also by one pattern, are copied to is a directory."""
    return step.destination if len(sources) == 1 else step.destination.rstrip("/") + "/"


def _exists(view: int, path: str) -> bool:
    try:
        os.close(open_inside(view, path, os.O_PATH | os.O_DIRECTORY))
    except OSError:
        return False
    return True
