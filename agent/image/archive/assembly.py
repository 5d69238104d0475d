"""Images that are made on this host, of layers that are in the stores already."""

from __future__ import annotations

from collections.abc import Sequence

from agent.image.archive.dockerarchive import make_resolved
from agent.image.recording import record_image
from agent.image.storage.records import ImageEntry
from agent.image.stores import Stores
from agent.oci.descriptor import OCI_CONFIG, Descriptor
from agent.oci.digest import compute_digest
from agent.oci.imageconfig import ImageConfig, encode_image_config
from agent.oci.manifest import Manifest, encode_manifest


def assemble_image(
    stores: Stores, config: ImageConfig, layers: Sequence[Descriptor], names: tuple[str, ...]
) -> ImageEntry:
    """Note an image of ``layers``, bottom first, whose blobs and snapshots are here; its manifest is made from them.

    Raises InvalidDocument when there are as many ``config.diff_ids`` as layers not.
    """
    raw_config = encode_image_config(config)
    descriptor = Descriptor(OCI_CONFIG, compute_digest(raw_config), len(raw_config))
    manifest = Manifest(descriptor, tuple(layers))
    image = make_resolved(manifest, encode_manifest(manifest), raw_config, config)
    return record_image(stores, image, names, local=True)
