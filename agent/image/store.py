"""The image store: pull, find, name, remove, build upon. The door of this package."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.errors import Unsupported
from agent.image.commit import Compression, LayerBlob, LayerCommitter
from agent.image.config import RegistryConfig
from agent.image.content import ContentStore
from agent.image.errors import ImageNotFound, translated_storage_errors
from agent.image.flight import Flights, Leases
from agent.image.progress import ProgressCallback, PullTracker
from agent.image.puller import Pull, Stores
from agent.image.records import ImageEntry, ImageRecords
from agent.image.snapshots import Records, SnapshotStore, compute_chain_names
from agent.oci.descriptor import OCI_CONFIG, OCI_MANIFEST, Descriptor
from agent.oci.digest import Digest, compute_chain_ids
from agent.oci.imageconfig import ImageConfig, decode_image_config, encode_image_config
from agent.oci.manifest import Manifest, decode_manifest, encode_manifest
from agent.oci.reference import Reference, parse_reference
from agent.store.layout import DataLayout

POLICIES = ("always", "missing", "never")
MAX_CONFIGS = 64
PRUNE_AGE = 3600.0


@dataclass(frozen=True)
class PruneReport:
    """What a prune removed; ``freed`` in bytes of blobs and of snapshots' files."""

    blobs: int
    snapshots: int
    freed: int


class ImageStore:
    """All images of one agent, below its data root. Thread-safe; calls block."""

    def __init__(self, data_root: Path, database: Records, config: RegistryConfig | None = None) -> None:
        layout = DataLayout(data_root)
        self._config = config or RegistryConfig()
        self.content = ContentStore(layout.content)
        self.snapshots = SnapshotStore(layout.snapshots, database)
        self._images = ImageRecords(database, self.content)
        self._stores = Stores(self.content, self.snapshots, self._images, Flights(), Leases())
        self._committer = LayerCommitter(self.content, self.snapshots, self._config.limits)
        self._configs: dict[Digest, ImageConfig] = {}
        self._lock = threading.Lock()
        self._flushers: list[threading.Thread] = []

    def pull(
        self,
        reference: str,
        *,
        policy: str = "missing",
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageEntry:
        """Make an image local and return it.

        ``policy``: always asks the registry, missing only when the image is not local, never not at all. Raises
        InvalidReference, ImageNotFound, RegistryUnauthorized, RegistryUnreachable, ImagePullFailed,
        InsufficientStorage, PullCancelled, or Refused for a hostile or ambiguous image.
        """
        if policy not in POLICIES:
            raise Unsupported(f"the pull policy {policy!r} is not one of {', '.join(POLICIES)}")
        parsed = parse_reference(reference)
        tracker = PullTracker(parsed.familiar(), progress, cancel)
        with translated_storage_errors():
            present = None if policy == "always" else self._find_complete(parsed, tracker)
            if present is not None:
                return present
            if policy == "never":
                raise ImageNotFound(
                    f"the image {parsed.familiar()} is not local, and its pull policy is never",
                    reason="ImageNotPresent",
                )
            entry = Pull(self._stores, self._config, parsed, tracker).run()
        self._flush_later()
        return entry

    def _find_complete(self, reference: Reference, tracker: PullTracker) -> ImageEntry | None:
        """The local image, unpacked again from its blobs when a power cut took its snapshots."""
        entry = self._images.find(str(reference))
        if entry is None or all(self.snapshots.find(chain) for chain in entry.chains):
            return entry
        restored = Pull(self._stores, self._config, reference, tracker).restore(entry)
        self._flush_later()
        return restored

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

    def all(self) -> tuple[ImageEntry, ...]:
        """Every local image."""
        return self._images.all()

    def config(self, image_id: str) -> ImageConfig:
        """The image's config, verified on its first reading. Raises ImageNotFound, DigestMismatch."""
        entry = self._images.require(image_id)
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

    def lowerdirs(self, image_id: str) -> tuple[Path, ...]:
        """The image's layers for overlayfs, topmost first; at least one. Raises ImageNotFound, NotFound."""
        entry = self._images.require(image_id)
        return tuple(self.snapshots.require(chain) for chain in reversed(entry.chains))

    def layers(self, image_id: str) -> tuple[LayerBlob, ...]:
        """The image's layers, bottom first, to build upon. Raises ImageNotFound."""
        entry = self._images.require(image_id)
        manifest = decode_manifest(self._read(entry.manifest), OCI_MANIFEST)
        if not isinstance(manifest, Manifest):
            raise ImageNotFound(f"the manifest of {image_id} is an index")
        diff_ids = self.config(image_id).diff_ids
        chains = compute_chain_ids(diff_ids)
        return tuple(map(LayerBlob, manifest.layers, diff_ids, chains))

    def tag(self, image_id: str, name: str) -> ImageEntry:
        """Give the image one more name; it is taken from the image that had it. Raises ImageNotFound."""
        entry = self._images.require(image_id)
        return self._images.put(replace(entry, names=(str(parse_reference(name)),)))

    def remove(self, name: str) -> None:
        """Take a name (or by its id, the image) away. Data stays until ``prune``. Raises ImageNotFound."""
        entry = self._images.remove(name)
        if entry is not None:
            with self._lock:
                self._configs.pop(entry.id, None)

    def commit_layer(
        self, upper: Path, *, parents: Sequence[Digest] = (), compression: Compression = "gzip"
    ) -> LayerBlob:
        """Store a directory (an overlay's upper, or a plain tree) as a layer and a snapshot upon ``parents``.

        ``parents`` are the chain IDs below it, bottom first; they decide the attributes of directories that the
        tree does not describe, and the new chain ID. The tree itself is left alone. Deterministic.
        """
        layer = self._committer.commit(upper, tuple(parents), compression)
        self._flush_later()
        return layer

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
        )
        return self._images.put(entry)

    def prune(
        self,
        keep: Collection[str | Path] = (),
        *,
        min_age: float = PRUNE_AGE,
    ) -> PruneReport:
        """Remove blobs and snapshots that no image, no pull under way and nothing in ``keep`` needs.

        ``keep`` holds digests, chain IDs and lower directories (of containers, of the build cache). What is
        younger than ``min_age`` seconds stays, since a build may be about to name it.
        """
        wanted = {str(item) for item in keep}
        wanted.update(key for entry in self.all() for key in (*entry.blobs, *entry.chains))
        oldest = time.time() - min_age
        blobs = {str(blob): blob for blob in self.content.all() if self._is_old(self.content.path(blob), oldest)}
        chains = {
            snapshot.chain
            for snapshot in self.snapshots.all()
            if str(self.snapshots.path(snapshot.number)) not in wanted
            and self._is_old(self.snapshots.path(snapshot.number).parent, oldest)
        }
        removed = [0, 0, 0]

        def remove(free: set[str]) -> None:
            gone = [blobs[key] for key in free & blobs.keys()]
            removed[:] = [len(gone), len(free & chains), sum(self.content.remove(blob) for blob in gone)]
            removed[2] += self.snapshots.remove(free & chains)

        self._stores.leases.while_free((blobs.keys() | chains) - wanted, remove)
        return PruneReport(*removed)

    def _is_old(self, path: Path, oldest: float) -> bool:
        try:
            return path.stat().st_mtime <= oldest
        except FileNotFoundError:
            return False
