"""The image store: pull, find, name, remove, build upon. The door of this package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import HoldfastError
from agent.image.archive.archives import ImageArchives
from agent.image.archive.assembly import assemble_image
from agent.image.collect import NEVER, ImageCollector, Keep, PruneReport
from agent.image.config import RegistryConfig
from agent.image.errors import ImageNotFound, translated_storage_errors
from agent.image.flight import Flights, Leases
from agent.image.progress import ProgressCallback, PullTracker
from agent.image.storage.commit import Compression, LayerBlob, LayerCommitter
from agent.image.storage.content import ContentStore
from agent.image.storage.documents import ImageDocuments
from agent.image.storage.flushing import Flusher
from agent.image.storage.indexes import IndexRecords
from agent.image.storage.records import ImageEntry, ImageRecords
from agent.image.storage.snapshots import Records, SnapshotStore
from agent.image.storage.uses import Uses
from agent.image.stores import Stores
from agent.image.transfer.cargo import CargoLoader
from agent.image.transfer.fetching import ImageFetcher
from agent.image.transfer.taglist import TagList
from agent.image.trust.policy import PolicyFile
from agent.image.trust.policy_gate import ImageGate
from agent.image.unpacking.unpackers import Unpackers
from agent.image.verify import Finding, Means, Verifier, VerifyProgress
from agent.oci.digest import Digest, compute_chain_ids
from agent.oci.imageconfig import ImageConfig
from agent.oci.reference import parse_reference
from agent.store.layout import DataLayout

if TYPE_CHECKING:
    from agent.image.transfer.pusher import PushReport

PRUNE_AGE = 3600.0


class ImageStore:
    """All images of one agent, below its data root. Thread-safe; calls block."""

    def __init__(
        self,
        data_root: Path,
        database: Records,
        config: RegistryConfig | None = None,
        policy: PolicyFile | None = None,
    ) -> None:
        layout = DataLayout(data_root)
        self._config = config or RegistryConfig()
        self.content = ContentStore(layout.content)
        self.snapshots = SnapshotStore(layout.snapshots, database)
        self._images = ImageRecords(database, self.content)
        gate = self._gate = ImageGate(policy, self._config, database)
        gate.forget(self._images.all())
        indexes = self._indexes = IndexRecords(database)
        indexes.forget(self._images.all())
        self._cargo = CargoLoader(self._images, self.content, indexes)
        unpackers = Unpackers(self._config.limits, self._config.apart_from)
        self._stores = Stores(self.content, self.snapshots, self._images, Flights(), Leases(), unpackers, gate, indexes)
        self._uses = Uses(self._images)
        self._documents = ImageDocuments(self.content, self._images, self._uses)
        self._flusher = Flusher(self.snapshots)
        self._fetcher = ImageFetcher(self._stores, gate, self._config, self._documents, self._uses, self._flusher.begin)
        self._collector = ImageCollector(self._stores, self._uses)
        self._committer = LayerCommitter(self.content, self.snapshots, self._config.limits)
        self.archives = ImageArchives(self._stores, self._config.limits, self._flusher.begin)

    def pull(
        self,
        reference: str,
        *,
        policy: str = "missing",
        platform: str | None = None,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageEntry:
        """Make an image local and return it.

        ``policy``: always asks the registry, missing only when the image is not local, never not at all.
        ``platform`` (``linux/arm64/v8``) is this host's unless given; an image that this host cannot run is named
        with its digest, so that the tag stays with its own. Raises InvalidReference, ImageNotFound,
        RegistryUnauthorized, RegistryUnreachable, ImagePullFailed, InsufficientStorage, PullCancelled, or Refused
        for a hostile or ambiguous image.
        """
        return self._fetcher.pull(reference, policy, platform, progress, cancel)

    def push(
        self,
        image: str,
        target: str | None = None,
        *,
        all_platforms: bool = False,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> PushReport:
        """Bring a local image to a registry: to ``target``, else where its name says; see ``cargo``.

        Raises ImageNotFound, InvalidReference, RegistryUnauthorized, RegistryUnreachable, ImagePullFailed,
        PullCancelled, DigestMismatch, Stalled.
        """
        cargo, goal = self._cargo.find(image, target, all_platforms=all_platforms)
        tracker = PullTracker(goal.familiar(), progress, cancel, "push")
        with translated_storage_errors():
            from agent.image.transfer.pusher import Push  # with all that only a push needs

            return Push(self._stores, self._config, cargo, goal, tracker).run()

    def list_tags(
        self, repository: str, *, progress: ProgressCallback | None = None, cancel: threading.Event | None = None
    ) -> TagList:
        """The tags of a repository's images, as its registry has them.

        Raises InvalidReference for a tag or digest, ImageNotFound when there are none, ImageRejected, and what a pull
        raises when the registry fails.
        """
        return self._fetcher.list_tags(repository, progress, cancel)

    def local_tags(self, repository: str, *, all_platforms: bool = False) -> tuple[str, ...]:
        """The tags of what is local of a repository; see ``cargo``. Raises InvalidReference, ImageNotFound."""
        return self._cargo.tags(repository, all_platforms=all_platforms)

    def close(self) -> None:
        """Wait until what was pulled and committed is on the disk, and unmount layers. Never needed for consistency."""
        self._flusher.wait()
        self.snapshots.close()

    def find(self, name_or_id: str) -> ImageEntry | None:
        """By reference, id, or a unique beginning of the id (6 digits at least). Raises Conflict if not unique."""
        return self._images.find(name_or_id)

    def find_admitted(self, reference: str, platform: str | None = None) -> ImageEntry | None:
        """The image of a reference, if it may be used as it is: ``pull`` has to be asked for any other one."""
        return self._fetcher.find_admitted(reference, platform)

    def all(self) -> tuple[ImageEntry, ...]:
        """Every local image."""
        return self._images.all()

    def last_used(self, entry: ImageEntry) -> float:
        """When an image was last pulled, made, run or built upon, in epoch seconds."""
        return self._uses.last(entry)

    def flush_uses(self) -> None:
        """Write down when images were last used."""
        self._uses.flush()

    @contextmanager
    def held(self, name_or_id: str) -> Iterator[ImageEntry]:
        """An image that nothing removes inside of the block, nor any of its files. Raises ImageNotFound."""
        entry = self._images.require(name_or_id)
        with self._stores.leases.held({entry.id, *entry.blobs, *entry.chains}):
            if self._images.get(entry.id) is None:
                raise ImageNotFound(f"the image {entry.id} was removed a moment ago", hint="pull the image again")
            self._uses.note(entry.id)
            yield entry

    def document(self, image_id: str) -> bytes:
        """The image's config as it came, verified. Raises ImageNotFound, DigestMismatch."""
        return self._documents.raw_config(image_id)

    def config(self, image_id: str) -> ImageConfig:
        """The image's config, verified on its first reading. Raises ImageNotFound, DigestMismatch."""
        return self._documents.config(image_id)

    def blob_size(self, key: str) -> int | None:
        """The bytes of a blob, None when ``key`` is the digest of none."""
        return self.content.size(Digest(key)) if key.startswith("sha256:") else None

    def lowerdirs(self, image_id: str) -> tuple[Path, ...]:
        """The image's layers for overlayfs, topmost first; at least one. Raises ImageNotFound, NotFound."""
        entry = self._images.require(image_id)
        self._uses.note(entry.id)
        return tuple(self.snapshots.require(chain) for chain in reversed(entry.chains))

    def layers(self, image_id: str) -> tuple[LayerBlob, ...]:
        """The image's layers, bottom first, to build upon. Raises ImageNotFound."""
        return self._documents.layers(image_id)

    def tag(self, image_id: str, name: str) -> ImageEntry:
        """Give the image one more name; it is taken from the image that had it. Raises ImageNotFound."""
        entry = self._images.require(image_id)
        return self._images.put(replace(entry, names=(str(parse_reference(name)),)))

    def remove(self, name: str) -> None:
        """Take a name (or by its id, the image) away. Data stays until ``prune``. Raises ImageNotFound.

        Whoever has to keep images that are needed asks ``remove_unneeded`` instead.
        """
        entry = self._images.remove(name)
        if entry is not None:
            self._forget(entry)

    def _forget(self, entry: ImageEntry) -> None:
        """An image was removed: so is what is known of it. On a full disk the next start does the rest."""
        self._documents.forget(entry.id)
        with suppress(HoldfastError):
            self._gate.forget_of(entry)
            self._indexes.forget_of(entry, self._images.all())

    def commit_layer(
        self, upper: Path, *, parents: Sequence[Digest] = (), compression: Compression = "gzip",
        check: Callable[[], None] = lambda: None,
    ) -> LayerBlob:  # fmt: skip
        """Store a directory (an overlay's upper, or a plain tree), which is left alone, as a layer and a snapshot.

        ``parents`` are the chain IDs below it, bottom first; they decide the attributes of directories that the tree
        does not describe, and the new chain ID. Deterministic. ``check`` is called meanwhile, and may raise.
        """
        return self._committer.commit(upper, tuple(parents), compression, check)

    def add_image(self, config: ImageConfig, layers: Sequence[LayerBlob], name: str | None) -> ImageEntry:
        """Record an image of stored layers, bottom first; ``config.diff_ids`` is set from them. Raises NotFound."""
        config = replace(config, diff_ids=tuple(layer.diff_id for layer in layers))
        for chain in compute_chain_ids(config.diff_ids):
            self.snapshots.require(chain)
        names = (str(parse_reference(name)),) if name else ()
        entry = assemble_image(self._stores, config, [layer.descriptor for layer in layers], names)
        self._uses.note(entry.id)
        self._flusher.begin()
        return entry

    def unname(self, image_id: str) -> None:
        """Take all names of an image away, and leave it. Raises ImageNotFound."""
        self._images.unname(self._images.require(image_id).id)

    def unneeded(self, keep: Keep, min_age: float = 0.0) -> tuple[ImageEntry, ...]:
        """The images that ``remove_unneeded`` may take, in the order in which they should go: those without a name,
        then the longest unused; none that was used within ``min_age`` seconds."""
        return self._collector.unneeded(keep, min_age)

    def remove_unneeded(self, image_id: Digest, keep: Callable[[], Keep]) -> PruneReport | None:
        """Remove an image and all of its files that nobody else needs; None when ``keep`` or a lease forbids it.

        ``keep`` is called while nobody can begin to use the image. Raises InsufficientStorage.
        """
        entry = self._images.get(image_id)
        report = self._collector.remove_image(image_id, keep)
        if report is not None and entry is not None:
            self._forget(entry)
        return report

    def verify(
        self,
        in_use: Callable[[], Collection[str]],
        *,
        repair: bool = True,
        progress: Callable[[VerifyProgress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[Finding, ...]:
        """Hash every blob and compare every snapshot with its blob; repair what is damaged, as far as that can be.

        ``in_use`` gives the ids of the images that containers use: their snapshots are not exchanged. Returns all
        that was wrong. Raises PullCancelled, StorageFailed.
        """
        stop = cancel or threading.Event()
        means = Means(
            repull=lambda entry: self._fetcher.repull(entry, stop),
            in_use=in_use,
            progress=progress or (lambda _: None),
            cancel=stop,
            limits=self._config.limits,
            repair=repair,
        )
        findings = Verifier(self._stores, means).run()
        self._flusher.begin()
        return findings

    def prune(
        self,
        keep: Collection[str | Path] = (),
        *,
        min_age: float = PRUNE_AGE,
        since: float = NEVER,
        only: Collection[str] | None = None,
    ) -> PruneReport:
        """Remove blobs and snapshots (``only`` some) that no image, no pull under way and nothing in ``keep`` needs.

        That holds digests, chain IDs and lower directories (of containers, of the build cache). What is younger than
        ``min_age`` seconds, or than ``since``, stays, since a build may be about to name it.
        """
        return self._collector.sweep(Keep(keys=keep, since=since), min_age, only)
