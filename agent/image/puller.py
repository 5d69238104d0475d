"""One pull: resolve, fetch what is missing, unpack, record. All layers at once, each in one pass."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import field, replace
from pathlib import Path

from agent.errors import Refused, Stalled, Waiting
from agent.image.apart import run_apart
from agent.image.budget import ImageBudget
from agent.image.config import RegistryConfig
from agent.image.content import ContentStore
from agent.image.download import BlobDownload
from agent.image.errors import DigestMismatch, InsufficientStorage, UnfitForImage, translated_storage_errors
from agent.image.flight import Flights, Leases
from agent.image.indexes import IndexRecords
from agent.image.layer import Pipeline
from agent.image.opening import open_registry
from agent.image.platforms import host_platform, is_made_for, platform_of
from agent.image.policy_gate import ImageGate
from agent.image.progress import LayerMeter, PullTracker
from agent.image.records import ImageEntry, ImageRecords
from agent.image.snapshots import IMAGE, TREE, SnapshotStore, compute_chain_names
from agent.image.space import check_space
from agent.image.unpackers import Unpackers
from agent.oci.descriptor import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, Descriptor
from agent.oci.digest import Digest, compute_chain_ids
from agent.oci.document import InvalidDocument, decode_document
from agent.oci.imageconfig import ImageConfig, decode_image_config
from agent.oci.manifest import Index, Manifest, decode_manifest, encode_manifest, select_manifest
from agent.oci.platform import Platform
from agent.oci.reference import Reference
from agent.values import frozen

REPORT_INTERVAL = 0.25
MAX_INDEX_DEPTH = 2


@frozen
class Stores:
    """Where a pull puts what it gets, and how it keeps out of other pulls' way. ``unpacked`` are the blobs that were
    unpacked, each with the chain that came out."""

    content: ContentStore
    snapshots: SnapshotStore
    images: ImageRecords
    flights: Flights
    leases: Leases
    gate: ImageGate | None = None
    indexes: IndexRecords | None = None
    unpacked: set[tuple[Digest, Digest]] = field(default_factory=set)


@frozen
class WantedLayer:
    """One layer of an image: its packed blob, the digest of what is in it, its chain ID, and its progress."""

    descriptor: Descriptor
    diff_id: Digest
    chain: Digest
    meter: LayerMeter


@frozen
class ResolvedImage:
    """An image of which everything but its layers is known and verified."""

    digest: Digest
    manifest: Manifest
    raw_manifest: bytes
    raw_config: bytes
    config: ImageConfig
    chains: tuple[Digest, ...]


def compute_oci_manifest(manifest: Manifest) -> Manifest:
    """The same image in OCI's media types, so that OCI tools find it in the layout."""
    layers = []
    for layer in manifest.layers:
        kind = OCI_LAYER_GZIP if layer.media_type.endswith("gzip") else OCI_LAYER
        layers.append(replace(layer, media_type=OCI_LAYER_ZSTD if layer.media_type.endswith("zstd") else kind))
    config = replace(manifest.config, media_type=OCI_CONFIG)
    return Manifest(config, tuple(layers), OCI_MANIFEST, manifest.annotations)


def record_image(stores: Stores, image: ResolvedImage, names: tuple[str, ...], *, local: bool = False) -> ImageEntry:
    """Note an image all layers of which are here, blobs and snapshots; ``local`` when no registry need have it."""
    content = stores.content
    oci = image.raw_manifest
    if image.manifest.media_type != OCI_MANIFEST:
        oci = encode_manifest(compute_oci_manifest(image.manifest))
    content.write(image.raw_config, image.manifest.config.digest)
    content.write(image.raw_manifest, image.digest)
    manifest = content.write(oci)
    layers = tuple(layer.digest for layer in image.manifest.layers)
    entry = ImageEntry(
        id=image.manifest.config.digest,
        digest=image.digest,
        names=names,
        size=sum(layer.size for layer in image.manifest.layers),
        created=image.config.created,
        pulled=time.time(),
        manifest=manifest,
        manifest_size=len(oci),
        blobs=(image.digest, manifest, image.manifest.config.digest, *layers),
        chains=compute_chain_names(image.chains),
        local=local,
    )
    return stores.images.put(entry)


class Pull:
    """Brings one image in; used once, by one thread."""

    def __init__(
        self,
        stores: Stores,
        config: RegistryConfig,
        reference: Reference,
        tracker: PullTracker,
        platform: Platform | None = None,
    ) -> None:
        """``platform`` is this host's unless given. Raises Stalled when the registries file cannot be used."""
        self._stores = stores
        self._config = config
        self._reference = reference
        self._platform = platform or host_platform()
        self._tracker = tracker
        self._client = open_registry(reference, config, tracker)
        self._budget: ImageBudget | None = None
        self._unpackers = Unpackers(config.limits, config.apart_from)

    def run(self) -> ImageEntry:
        """Pull. Raises what goes wrong; then nothing refused stays, and what can be resumed does."""
        self._tracker.report("resolving")
        image: ResolvedImage | None = None
        try:
            image = run_apart(self._resolve, self._tracker, self._client.transport.abort)
            entry = self._bring_leased(image)
        except (Refused, Stalled, InsufficientStorage):
            self._clean_up(image)
            raise
        finally:
            self._client.transport.close()
        self._tracker.report("done")
        return entry

    def restore(self, entry: ImageEntry) -> ImageEntry | None:
        """Unpack again an image whose blobs are all here, without asking the registry; None when they are not."""
        content = self._stores.content
        try:
            data = content.read(entry.digest)
            kind = str(decode_document(data, "the manifest").get("mediaType") or OCI_MANIFEST)
            image = self._complete(decode_manifest(data, kind), data, entry.digest, content.read(entry.id))
            if any(content.size(layer.digest) != layer.size for layer in image.manifest.layers):
                return None
            return self._bring_leased(image)
        except (FileNotFoundError, Refused, Waiting):
            self._tracker.check()
            return None

    def _resolve(self) -> ResolvedImage:
        data, kind, digest = self._client.fetch_manifest()
        first, document = (data, kind), decode_manifest(data, kind)
        digests = [digest]
        for _ in range(MAX_INDEX_DEPTH):
            if isinstance(document, Manifest):
                break
            chosen = select_manifest(document, self._platform)
            data, kind, digest = self._client.fetch_manifest(chosen)
            document = decode_manifest(data, kind)
            digests.append(digest)
        if isinstance(document, Index):
            raise InvalidDocument(f"{self._reference.familiar()} is an index of indexes of indexes")
        if self._stores.gate is not None:
            self._stores.gate.check_signed(self._reference, digests, self._tracker)
        if self._stores.indexes is not None and len(digests) > 1:
            self._stores.indexes.note(self._reference, *first)
        return self._complete(document, data, digest, self._read_config(document.config))

    def _complete(self, manifest: Manifest | Index, data: bytes, digest: Digest, raw_config: bytes) -> ResolvedImage:
        if isinstance(manifest, Index):
            raise InvalidDocument(f"{self._reference.familiar()} is an index of indexes of indexes")
        config = decode_image_config(raw_config)
        self._check(manifest, config)
        return ResolvedImage(digest, manifest, data, raw_config, config, compute_chain_ids(config.diff_ids))

    def _read_config(self, descriptor: Descriptor) -> bytes:
        try:
            data = self._stores.content.read(descriptor.digest)
        except (FileNotFoundError, DigestMismatch):
            data = self._client.fetch_blob(descriptor)
        if len(data) != descriptor.size:
            raise InvalidDocument(f"the image config has {len(data)} bytes, its manifest says {descriptor.size}")
        return data

    def _check(self, manifest: Manifest, config: ImageConfig) -> None:
        if len(manifest.layers) != len(config.diff_ids):
            raise InvalidDocument(
                f"the manifest has {len(manifest.layers)} layers, the image config {len(config.diff_ids)}"
            )
        if not is_made_for(config, self._platform):
            raise Stalled(
                f"{self._reference.familiar()} is made for {platform_of(config)}, wanted is {self._platform}",
                reason="PlatformNotFound",
            )

    def _bring_leased(self, image: ResolvedImage) -> ImageEntry:
        keys = {image.manifest.config.digest, *(layer.digest for layer in image.manifest.layers), *image.chains}
        with self._stores.leases.held(keys):
            return self._bring(image)

    def _bring(self, image: ResolvedImage) -> ImageEntry:
        self._budget = ImageBudget(self._config.limits, image.manifest.layers)
        meters = self._tracker.expect(image.manifest.layers)
        parts = zip(image.manifest.layers, image.config.diff_ids, image.chains, meters, strict=True)
        layers = [WantedLayer(*part) for part in parts]
        missing = [layer for layer in layers if not self._is_local(layer)]
        self._check_room([layer.descriptor for layer in missing])
        if missing:
            self._bring_layers(missing, image.chains)
        if not layers:
            self._make_empty()
        return self._record(image)

    def _is_local(self, layer: WantedLayer) -> bool:
        content, snapshots = self._stores.content, self._stores.snapshots
        local = (
            content.size(layer.descriptor.digest) == layer.descriptor.size
            and snapshots.find(layer.chain) is not None
            and self._belong_together(layer)
        )
        if local:
            layer.meter.finish(present=True)
        return local

    def _belong_together(self, layer: WantedLayer) -> bool:
        """Whether the chain is known to be what comes out of the blob: a manifest may say so of any two."""
        blob = layer.descriptor.digest
        return (blob, layer.chain) in self._stores.unpacked or self._stores.images.has_unpacked(blob, layer.chain)

    def _check_room(self, layers: Sequence[Descriptor]) -> None:
        content = self._stores.content
        sizes = {layer.digest: layer.size for layer in layers if content.size(layer.digest) is None}
        check_space(content.root, sum(sizes.values()), self._config.limits)

    def _make_empty(self) -> None:
        snapshots = self._stores.snapshots
        if snapshots.find(compute_chain_names(())[0]) is None:
            snapshots.commit(snapshots.prepare(), compute_chain_names(())[0], 0)

    def _bring_layers(self, layers: list[WantedLayer], chains: tuple[Digest, ...]) -> None:
        """Unpack in parallel; each waits for the layer below it only to be given its number."""
        pool = ThreadPoolExecutor(self._config.parallel_layers, thread_name_prefix="layer-fetch")
        below: Future[None] | None = None
        futures = []
        try:
            for layer in layers:
                lower = chains[: chains.index(layer.chain)]
                below = pool.submit(self._bring_layer, layer, lower, below)
                futures.append(below)
            self._await(futures)
        except BaseException:
            self._tracker.abandon()
            self._client.transport.abort()
            self._unpackers.abort()
            self._stores.flights.wake()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._unpackers.close()

    def _await(self, futures: list[Future[None]]) -> None:
        """Wait for all, or for the first error or the caller's cancel; report progress on the way."""
        pending = set(futures)
        while pending:
            done, pending = wait(pending, REPORT_INTERVAL, FIRST_EXCEPTION)
            for future in done:
                future.result()
            self._tracker.check()
            self._tracker.report("pulling")

    def _bring_layer(self, layer: WantedLayer, below: Sequence[Digest], earlier: Future[None] | None) -> None:
        """Hold the chain to the end, the blob only while it is fetched: so no two pulls wait in a ring."""
        flights, snapshots = self._stores.flights, self._stores.snapshots
        with flights.alone({f"chain {layer.chain}"}, self._tracker):
            if self._is_local(layer):
                return
            path = snapshots.prepare()
            try:
                with flights.alone({f"blob {layer.descriptor.digest}"}, self._tracker):
                    pipeline = self._unpack(path, layer)
                if earlier is not None:
                    earlier.result()
                lower = [snapshots.require(chain) for chain in reversed(below)]
                with translated_storage_errors():
                    pipeline.settle(lower)
                snapshots.commit(path, layer.chain, pipeline.size)
                self._stores.unpacked.add((layer.descriptor.digest, layer.chain))
            except BaseException:
                snapshots.discard(path)
                raise
            layer.meter.finish()

    def _unpack(self, path: Path, layer: WantedLayer) -> Pipeline:
        """Fill a prepared snapshot. Fetched again from the start, once each, when it is refused and what was left from
        before may be damaged, or a mirror sent of it; unpacked to a tree when an image cannot hold it."""
        content, digest = self._stores.content, layer.descriptor.digest
        left_over = content.size(digest) is not None or content.has_ingest(digest)
        image = path / IMAGE if self._stores.snapshots.mounts.supported else None
        while True:
            pipeline = self._unpackers.pipeline(path / TREE, layer.descriptor.size, self._budget, image)
            try:
                pipeline.run(self._source(layer), layer.diff_id)
            except UnfitForImage:
                image = None
                self._stores.snapshots.empty(path)
                layer.meter.restart()
                continue
            except Refused:
                distrusted = self._client.distrust(digest)
                if not (left_over or distrusted) or self._is_sound(digest):
                    raise
                left_over = False
                content.remove(digest)
                self._stores.snapshots.empty(path)
                layer.meter.restart()
                continue
            return pipeline

    def _is_sound(self, digest: Digest) -> bool:
        """Whether the blob is here and right, whatever is wrong with what it holds: other images may need it."""
        try:
            for _ in self._stores.content.stream(digest):
                self._tracker.check()
        except (FileNotFoundError, DigestMismatch):
            return False
        return True

    def _source(self, layer: WantedLayer) -> Generator[bytes, None, None]:
        content, descriptor = self._stores.content, layer.descriptor
        if content.size(descriptor.digest) != descriptor.size:
            return BlobDownload(content, self._client, descriptor, self._config, layer.meter).stream()
        return self._counted(content.stream(descriptor.digest), layer.meter)

    def _counted(self, chunks: Generator[bytes, None, None], meter: LayerMeter) -> Generator[bytes, None, None]:
        with closing(chunks):
            for chunk in chunks:
                meter.check()
                meter.advance(len(chunk), fetched=False)
                yield chunk

    def _record(self, image: ResolvedImage) -> ImageEntry:
        return record_image(self._stores, image, (str(self._name(image)),))

    def _name(self, image: ResolvedImage) -> Reference:
        """What the image is called here. A tag stays with the image that this host can run."""
        own = is_made_for(image.config, host_platform())
        return self._reference if own else self._reference.with_digest(image.digest)

    def _clean_up(self, image: ResolvedImage | None) -> None:
        """Leave nothing of an image that was refused, save what other images or pulls use."""
        if image is None:
            return
        used = {key for entry in self._stores.images.all() for key in (*entry.blobs, *entry.chains)}
        blobs = {str(layer.digest) for layer in image.manifest.layers} - used
        chains = {str(chain) for chain in image.chains} - used

        def remove(free: set[str]) -> None:
            for blob in image.manifest.layers:
                if blob.digest in free & blobs:
                    self._stores.content.remove(blob.digest)
            self._stores.snapshots.remove(free & chains)

        self._stores.leases.while_free(blobs | chains, remove)
