"""From an image all layers of which are here to its record: the last step of every way that brings one in."""

from __future__ import annotations

import time
from dataclasses import replace

from agent.image.storage.records import ImageEntry
from agent.image.storage.snapshots import compute_chain_names
from agent.image.stores import Stores
from agent.oci.descriptor import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST
from agent.oci.digest import Digest
from agent.oci.imageconfig import ImageConfig
from agent.oci.manifest import Manifest, encode_manifest
from agent.values import frozen


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
    content, snapshots, empty = stores.content, stores.snapshots, compute_chain_names(())[0]
    if not image.chains and snapshots.find(empty) is None:
        snapshots.commit(snapshots.prepare(), empty, 0)
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
