"""The image store: pull, find, name, remove, build upon. The door of this package."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import HoldfastError, InvalidSpec, Stalled, Unsupported, Waiting
from agent.image.archives import ImageArchives
from agent.image.cargo import CargoLoader
from agent.image.collect import NEVER, ImageCollector, Keep, PruneReport
from agent.image.commit import Compression, LayerBlob, LayerCommitter
from agent.image.config import RegistryConfig
from agent.image.content import ContentStore
from agent.image.errors import ImageNotFound, translated_storage_errors
from agent.image.flight import Flights, Leases
from agent.image.indexes import IndexRecords
from agent.image.platforms import find_platform, platform_of, require_platform
from agent.image.policy import PolicyFile
from agent.image.policy_gate import ImageGate
from agent.image.progress import ProgressCallback, PullTracker
from agent.image.puller import Pull, Stores
from agent.image.records import ImageEntry, ImageRecords
from agent.image.snapshots import Records, SnapshotStore, compute_chain_names
from agent.image.uses import Uses
from agent.image.verify import Finding, Means, Verifier, VerifyProgress
from agent.oci.descriptor import OCI_CONFIG, OCI_MANIFEST, Descriptor
from agent.oci.digest import Digest, compute_chain_ids
from agent.oci.imageconfig import ImageConfig, decode_image_config, encode_image_config
from agent.oci.manifest import Manifest, decode_manifest, encode_manifest
from agent.oci.platform import Platform
from agent.oci.reference import InvalidReference, Reference, parse_reference
from agent.store.layout import DataLayout

if TYPE_CHECKING:
    from agent.image.pusher import PushReport

POLICIES = ("always", "missing", "never")
MAX_CONFIGS = 64
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
        self._gate = ImageGate(policy, self._config, database)
        self._gate.forget(self._images.all())
        indexes = IndexRecords(database)
        indexes.forget(self._images.all())
        self._cargo = CargoLoader(self._images, self.content, indexes)
        self._stores = Stores(self.content, self.snapshots, self._images, Flights(), Leases(), self._gate, indexes)
        self._uses = Uses(self._images)
        self._collector = ImageCollector(self._stores, self._uses)
        self._committer = LayerCommitter(self.content, self.snapshots, self._config.limits)
        self._configs: dict[Digest, ImageConfig] = {}
        self._lock = threading.Lock()
        self._flushers: list[threading.Thread] = []
        self.archives = ImageArchives(self._stores, self._config.limits, self._flush_later)

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
        if policy not in POLICIES:
            raise Unsupported(f"the pull policy {policy!r} is not one of {', '.join(POLICIES)}")
        parsed, wanted = parse_reference(reference), require_platform(platform)
        tracker = PullTracker(parsed.familiar(), progress, cancel)
        self._gate.check(parsed)
        with translated_storage_errors():
            present = None if policy == "always" else self._find_complete(parsed, tracker, wanted)
            if present is not None:
                self._uses.note(present.id)
                return present
            if policy == "never":
                raise self._explain_absence(parsed, wanted)
            entry = Pull(self._stores, self._config, parsed, tracker, wanted).run()
        self._uses.note(entry.id)
        self._flush_later()
        return entry

    def _explain_absence(self, reference: Reference, platform: Platform | None) -> HoldfastError:
        """Why there is no image that may be used, though none may be pulled."""
        if self._find_local(reference, platform) is not None:
            return self._gate.refuse_unchecked(reference)
        what = f"the image {reference.familiar()} is not local, and its pull policy is never"
        return ImageNotFound(what, reason="ImageNotPresent")

    def _find_local(self, reference: Reference, platform: Platform | None) -> ImageEntry | None:
        return self._images.find(str(reference)) if platform is None else self._find_platform(reference, platform)

    def _find_complete(
        self, reference: Reference, tracker: PullTracker, platform: Platform | None = None
    ) -> ImageEntry | None:
        """The local image that may be used, unpacked again from its blobs when a power cut took its snapshots."""
        entry = self._find_local(reference, platform)
        if entry is None or not self._gate.admits(reference, entry):
            return None
        if all(self.snapshots.find(chain) for chain in entry.chains):
            return entry
        restored = Pull(self._stores, self._config, reference, tracker, platform).restore(entry)
        self._flush_later()
        return restored

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
            from agent.image.pusher import Push  # with all that only a push needs

            return Push(self._stores, self._config, cargo, goal, tracker).run()

    def _find_platform(self, reference: Reference, platform: Platform) -> ImageEntry | None:
        return find_platform(self._images.all(), reference, platform, lambda found: self.config(found.id))

    def _flush_later(self) -> None:
        with self._lock:
            self._flushers = [thread for thread in self._flushers if thread.is_alive()]
            self._flushers.append(threading.Thread(target=self.snapshots.flush, name="snapshot-flush", daemon=True))
            self._flushers[-1].start()

    def close(self) -> None:
        """Wait until what was pulled and committed is on the disk. Never needed for consistency."""
        with self._lock:
            running = list(self._flushers)
        for thread in running:
            thread.join()

    def find(self, name_or_id: str) -> ImageEntry | None:
        """By reference, id, or a unique beginning of the id (6 digits at least). Raises Conflict if not unique."""
        return self._images.find(name_or_id)

    def find_admitted(self, reference: str, platform: str | None = None) -> ImageEntry | None:
        """The image of a reference, if it may be used as it is: ``pull`` has to be asked for any other one."""
        wanted = require_platform(platform)
        entry = self._images.find(reference)
        if wanted is not None:
            entry = self._find_platform(parse_reference(reference), wanted)
        try:
            return entry if entry is None or self._gate.admits(parse_reference(reference), entry) else None
        except InvalidReference:
            return entry
        except InvalidSpec:
            return None

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
        return self._read(self._images.require(image_id).id)

    def manifest(self, image_id: str) -> Manifest:
        """The image's manifest, verified. Raises ImageNotFound, DigestMismatch."""
        manifest = decode_manifest(self._read(self._images.require(image_id).manifest), OCI_MANIFEST)
        if not isinstance(manifest, Manifest):
            raise ImageNotFound(f"the manifest of {image_id} is an index")
        return manifest

    def config(self, image_id: str) -> ImageConfig:
        """The image's config, verified on its first reading. Raises ImageNotFound, DigestMismatch."""
        entry = self._images.require(image_id)
        self._uses.note(entry.id)
        config = self._configs.get(entry.id)
        if config is None:
            config = decode_image_config(self._read(entry.id))
            with self._lock:
                if len(self._configs) >= MAX_CONFIGS:
                    self._configs.clear()
                self._configs[entry.id] = config
        return config

    def _read(self, digest: Digest) -> bytes:
        try:
            return self.content.read(digest)
        except FileNotFoundError as error:
            raise ImageNotFound(f"the blob {digest} is missing", hint="pull the image again") from error

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
        manifest = self.manifest(image_id)
        diff_ids = self.config(image_id).diff_ids
        chains = compute_chain_ids(diff_ids)
        return tuple(map(LayerBlob, manifest.layers, diff_ids, chains))

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
            with self._lock:
                self._configs.pop(entry.id, None)

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
        chains = compute_chain_names(compute_chain_ids(config.diff_ids))
        if not layers and self.snapshots.find(chains[0]) is None:
            self.snapshots.commit(self.snapshots.prepare(), chains[0], 0)
        for chain in chains:
            self.snapshots.require(chain)
        raw_config = encode_image_config(config)
        image_id = self.content.write(raw_config)
        descriptor = Descriptor(OCI_CONFIG, image_id, len(raw_config))
        raw_manifest = encode_manifest(Manifest(descriptor, tuple(layer.descriptor for layer in layers)))
        manifest = self.content.write(raw_manifest)
        entry = ImageEntry(
            id=image_id,
            digest=manifest,
            names=(str(parse_reference(name)),) if name else (),
            size=sum(layer.descriptor.size for layer in layers),
            created=config.created,
            pulled=time.time(),
            manifest=manifest,
            manifest_size=len(raw_manifest),
            blobs=(manifest, image_id, *(layer.descriptor.digest for layer in layers)),
            chains=chains,
            local=True,
        )
        self._uses.note(image_id)
        self._flush_later()
        return self._images.put(entry)

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
        report = self._collector.remove_image(image_id, keep)
        if report is not None:
            with self._lock:
                self._configs.pop(image_id, None)
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
            repull=lambda entry: self._repull(entry, stop),
            in_use=in_use,
            progress=progress or (lambda _: None),
            cancel=stop,
            limits=self._config.limits,
            repair=repair,
        )
        findings = Verifier(self._stores, means).run()
        self._flush_later()
        return findings

    def _repull(self, entry: ImageEntry, cancel: threading.Event) -> None:
        """Pull an image again by its digest, from where its names say. Raises what a pull raises."""
        if entry.local or not entry.names:
            lost, hint = "it was made here, no registry is known to have it", "build or load it again"
            if not entry.local:
                lost, hint = "it has no name, so nobody knows its registry", "holdfast image prune, if it is not used"
            raise ImageNotFound(lost, hint=hint)
        platform = self._platform_name(entry)
        for number, name in enumerate(entry.names, 1):
            pinned = str(replace(parse_reference(name), tag=None, digest=entry.digest))
            try:
                self.pull(pinned, policy="always", platform=platform, cancel=cancel)
            except (ImageNotFound, Waiting, Stalled):
                if number == len(entry.names):
                    raise
                continue
            if pinned not in entry.names:
                self._images.remove(pinned)
            return

    def _platform_name(self, entry: ImageEntry) -> str | None:
        """What an image is made for; None when it does not say, or its config is what is damaged."""
        try:
            offered = platform_of(decode_image_config(self._read(entry.id)))
        except HoldfastError:
            return None
        return str(offered) if offered is not None else None

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
