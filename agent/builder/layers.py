"""Steps to layers: found in the cache by content, or made, committed and remembered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path

from agent.builder.cache import LayerCache, compute_imported_key, compute_key
from agent.builder.dockerfile.steps import CopyStep, DirectoryStep
from agent.builder.files.copier import Copier, Dress, make_working_directory
from agent.builder.files.entries import Source
from agent.builder.files.placing import Placing
from agent.builder.files.supplies import Supply
from agent.builder.turns import Turns
from agent.builder.workspace import StepDirectory, step_directory
from agent.image.errors import translated_storage_errors
from agent.image.limits import UnpackLimits
from agent.image.space import check_space
from agent.image.storage.commit import Compression, LayerBlob
from agent.image.store import ImageStore
from agent.oci.digest import Digest
from agent.runtime.imageview import merged_view, open_inside
from agent.runtime.users import read_identity
from agent.values import frozen

Layers = tuple[LayerBlob, ...]


@frozen
class Made:
    """A step's layer, and whether it was there already; None when the step changed nothing."""

    layer: LayerBlob | None
    cached: bool = False
    key: str = ""


@frozen
class Terms:
    """How one build wants its layers: with times up to ``epoch`` (see epoch.py) and then packed the same on every
    machine, and ``fresh`` or from the cache."""

    epoch: int | None = None
    fresh: bool = False
    imported: str | None = None
    """The scope of the imported layers that count."""


class LayerMaker:
    """Thread-safe. ``root`` is the directory for the steps under way, whose own are removed ``later``."""

    def __init__(
        self, images: ImageStore, cache: LayerCache, root: Path, later: Callable[[Callable[[], None]], None]
    ) -> None:
        self._images = images
        self._root = root
        self._later = later
        self._turns = Turns()
        self._terms = Terms()
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
        with step_directory(self._root, self.lower(layers), self._later) as directory:
            yield directory

    def commit(self, directory: StepDirectory, layers: Layers, check: Callable[[], None]) -> LayerBlob:
        """The upper directory becomes a layer; ``check`` may raise meanwhile."""
        with translated_storage_errors():
            directory.settle(self._terms.epoch)
        parents: list[Digest] = [layer.chain_id for layer in layers]
        packing: Compression = "gzip" if self._terms.epoch is None else "portable"
        return self._images.commit_layer(directory.upper, parents=parents, compression=packing, check=check)

    def find_or_make(self, key: str, make: Callable[[], LayerBlob], check: Callable[[], None]) -> Made:
        """The layer with this key. Of several builds that want the same one makes it, and the others wait for it."""
        if self._terms.epoch is not None:
            key = compute_key(kind="dated", key=key, epoch=self._terms.epoch, packing="portable")
        with self._turns.held(key, check):
            cached = None if self._terms.fresh else self._find(key)
            if cached is not None:
                return Made(cached, cached=True, key=key)
            layer = make()
            self.cache.put(key, layer)
            return Made(layer, key=key)

    def _find(self, key: str) -> LayerBlob | None:
        found = self.cache.find(key)
        if found is None and self._terms.imported is not None:
            return self.cache.find(compute_imported_key(key, self._terms.imported))
        return found

    def make_directory(self, step: DirectoryStep, layers: Layers, check: Callable[[], None]) -> Made:
        """WORKDIR."""
        with merged_view(self.lower(layers)) as view:
            if _exists(view, step.path):
                return Made(None)
            identity = read_identity(view, step.user)
        owner = (identity.uid, identity.gid)

        def make() -> LayerBlob:
            with self.working(layers) as directory:
                with directory.mounted() as root:
                    make_working_directory(root, step.path, owner)
                return self.commit(directory, layers, check)

        key = compute_key(kind="directory", below=top_of(layers), path=step.path, owner=list(owner))
        return self.find_or_make(key, make, check)

    @contextmanager
    def spooled(self) -> Iterator[Path]:
        """A directory for what has to be fetched before a step can be looked up."""
        with step_directory(self._root, (), self._later) as directory:
            yield directory.make("spool")

    def copy(self, step: CopyStep, layers: Layers, supplies: Sequence[Supply], check: Callable[[], None]) -> Made:
        """COPY and ADD."""
        dress = self._compute_dress(step, layers)
        key = compute_key(
            kind="copy",
            below=top_of(layers),
            content=[supply.content for supply in supplies],
            destination=step.destination,
            dress=[dress.owner, dress.mode.text if dress.mode else None],
            options=[step.options.link, step.options.unpack],
        )
        return self.find_or_make(key, lambda: self._copy(step, layers, supplies, dress, check), check)

    def _copy(
        self, step: CopyStep, layers: Layers, supplies: Sequence[Supply], dress: Dress, check: Callable[[], None]
    ) -> LayerBlob:
        with self.working(layers) as directory, ExitStack() as opened, translated_storage_errors():
            batches = [
                opened.enter_context(supply.opened(directory.make(f"supply-{number}")))
                for number, supply in enumerate(supplies)
            ]
            sources = [source for batch in batches for source in batch.sources]
            check_space(directory.path, sum(e.size for source in sources for e in source.entries), UnpackLimits())
            with directory.mounted(alone=step.options.link) as root:
                placing = Placing(directory, Copier(root, dress), _settle_destination(step, sources))
                for batch in batches:
                    placing.place(batch)
            return self.commit(directory, layers, check)

    def _compute_dress(self, step: CopyStep, layers: Layers) -> Dress:
        """The owner by the image's own passwd and group. A lone number is the group's too, as for Docker."""
        if not step.owner:
            return Dress(mode=step.mode)
        text = f"{step.owner}:{step.owner}" if step.owner.isascii() and step.owner.isdigit() else step.owner
        with merged_view(self.lower(layers)) as view:
            identity = read_identity(view, text)
        return Dress((identity.uid, identity.gid), step.mode)


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
