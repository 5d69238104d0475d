"""What local images say of themselves: their manifests and configs, read from the content store and verified."""

from __future__ import annotations

import threading

from agent.errors import HoldfastError
from agent.image.errors import ImageNotFound
from agent.image.storage.commit import LayerBlob
from agent.image.storage.content import ContentStore
from agent.image.storage.platforms import platform_of
from agent.image.storage.records import ImageEntry, ImageRecords
from agent.image.storage.uses import Uses
from agent.oci.descriptor import OCI_MANIFEST
from agent.oci.digest import Digest, compute_chain_ids
from agent.oci.imageconfig import ImageConfig, decode_image_config
from agent.oci.manifest import Manifest, decode_manifest

MAX_CONFIGS = 64


class ImageDocuments:
    """Thread-safe. The last configs that were read are remembered."""

    def __init__(self, content: ContentStore, images: ImageRecords, uses: Uses) -> None:
        self._content = content
        self._images = images
        self._uses = uses
        self._configs: dict[Digest, ImageConfig] = {}
        self._lock = threading.Lock()

    def raw_config(self, image_id: str) -> bytes:
        """An image's config as it came. Raises ImageNotFound, DigestMismatch."""
        return self._read(self._images.require(image_id).id)

    def manifest(self, image_id: str) -> Manifest:
        """An image's manifest. Raises ImageNotFound, DigestMismatch."""
        manifest = decode_manifest(self._read(self._images.require(image_id).manifest), OCI_MANIFEST)
        if not isinstance(manifest, Manifest):
            raise ImageNotFound(f"the manifest of {image_id} is an index")
        return manifest

    def config(self, image_id: str) -> ImageConfig:
        """An image's config, verified on its first reading; that is a use of it. Raises ImageNotFound,
        DigestMismatch."""
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

    def layers(self, image_id: str) -> tuple[LayerBlob, ...]:
        """An image's layers, bottom first. Raises ImageNotFound, DigestMismatch."""
        manifest = self.manifest(image_id)
        diff_ids = self.config(image_id).diff_ids
        chains = compute_chain_ids(diff_ids)
        return tuple(map(LayerBlob, manifest.layers, diff_ids, chains))

    def platform(self, entry: ImageEntry) -> str | None:
        """What an image is made for; None when it does not say, or its config is what is damaged."""
        try:
            offered = platform_of(decode_image_config(self._read(entry.id)))
        except HoldfastError:
            return None
        return str(offered) if offered is not None else None

    def forget(self, image_id: Digest) -> None:
        """The image is removed."""
        with self._lock:
            self._configs.pop(image_id, None)

    def _read(self, digest: Digest) -> bytes:
        try:
            return self._content.read(digest)
        except FileNotFoundError as error:
            raise ImageNotFound(f"the blob {digest} is missing", hint="pull the image again") from error
