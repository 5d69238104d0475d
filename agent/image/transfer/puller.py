"""One pull: find out what the image is, have its layers brought in (``layerpull``), record it."""

from __future__ import annotations

from agent.errors import Refused, Stalled, Waiting
from agent.image.config import RegistryConfig
from agent.image.errors import DigestMismatch, InsufficientStorage
from agent.image.progress import PullTracker
from agent.image.recording import ResolvedImage, record_image
from agent.image.registry.opening import open_registry
from agent.image.storage.platforms import host_platform, is_made_for, platform_of
from agent.image.storage.records import ImageEntry
from agent.image.stores import Stores
from agent.image.transfer.apart import run_apart
from agent.image.transfer.layerpull import LayerPull
from agent.oci.descriptor import OCI_MANIFEST, Descriptor
from agent.oci.digest import Digest, compute_chain_ids
from agent.oci.document import InvalidDocument, decode_document
from agent.oci.imageconfig import ImageConfig, decode_image_config
from agent.oci.manifest import Index, Manifest, decode_manifest, select_manifest
from agent.oci.platform import Platform
from agent.oci.reference import Reference

MAX_INDEX_DEPTH = 2


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
            LayerPull(self._stores, self._config, self._client, self._tracker, image).run()
            entry = record_image(self._stores, image, (str(self._name(image)),))
        layers = [layer.digest for layer in image.manifest.layers]
        self._stores.unpacked.difference_update(zip(layers, image.chains, strict=True))
        return entry

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
