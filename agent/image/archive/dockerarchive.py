"""docker-archive: what ``docker save`` writes. ``manifest.json`` lists images: a config, layers, and names for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.errors import Stalled
from agent.image.archive.files import ArchiveFiles, InvalidArchive, StoredBlob
from agent.image.archive.tar import TarFiles
from agent.image.recording import ResolvedImage
from agent.oci.descriptor import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from agent.oci.digest import compute_chain_ids, compute_digest, render_shortened
from agent.oci.document import InvalidDocument, decode_document, take_objects, take_text, take_texts
from agent.oci.imageconfig import ImageConfig, decode_image_config
from agent.oci.manifest import MAX_LAYERS, Manifest, encode_manifest
from agent.oci.platform import Platform, compute_rank
from agent.oci.reference import InvalidReference, parse_reference
from agent.values import frozen

MANIFEST = "manifest.json"
MAX_IMAGES = 256
_HEADS = {b"\x1f\x8b": OCI_LAYER_GZIP, b"\x28\xb5": OCI_LAYER_ZSTD}


@frozen
class FoundImage:
    """An image of an archive. ``names`` are full references that the archive gives it; ``label`` is what
    a layout calls it."""

    image: ResolvedImage
    names: tuple[str, ...] = ()
    label: str = ""


def read_docker_archive(files: ArchiveFiles) -> Iterator[FoundImage]:
    """Every image of the archive; its layers are taken into the content store when it is its turn.

    Raises InvalidArchive, InvalidDocument, Refused.
    """
    data = files.read(MANIFEST)
    document = decode_document(b'{"images":' + data + b"}", "manifest.json")
    if set(document) != {"images"}:
        raise InvalidArchive("manifest.json is not a list")
    for entry in take_objects(document, "images", MAX_IMAGES):
        yield _read_image(files, entry)


def _read_image(files: ArchiveFiles, entry: dict[str, Any]) -> FoundImage:
    raw_config = files.read(_plain(take_text(entry, "Config")))
    config = decode_image_config(raw_config)
    layers = take_texts(entry, "Layers") or ()
    if len(layers) > MAX_LAYERS:
        raise InvalidDocument(f"manifest.json lists {len(layers)} layers; at most {MAX_LAYERS} are accepted")
    names = tuple(parse_name(name) for name in take_texts(entry, "RepoTags") or ())
    blobs = [_take(files, _plain(name)) for name in layers]
    manifest = Manifest(
        Descriptor(OCI_CONFIG, compute_digest(raw_config), len(raw_config)),
        tuple(Descriptor(_HEADS.get(blob.head[:2], OCI_LAYER), blob.digest, blob.size) for blob in blobs),
    )
    return FoundImage(make_resolved(manifest, encode_manifest(manifest), raw_config, config), names)


def _take(files: ArchiveFiles, name: str) -> StoredBlob:
    """A layer; docker once wrote a link to the same layer of another image."""
    return files.take(files.follow(name) if isinstance(files, TarFiles) else name)


def _plain(name: str) -> str:
    return name.removeprefix("./")


def parse_name(text: str) -> str:
    """A name that an archive gives an image, as a full reference. Raises InvalidArchive."""
    try:
        return str(parse_reference(text))
    except InvalidReference as error:
        raise InvalidArchive(f"the archive names an image {render_shortened(text)}, which is no name") from error


def make_resolved(manifest: Manifest, raw: bytes, raw_config: bytes, config: ImageConfig) -> ResolvedImage:
    """An image whose manifest and config are read. Raises InvalidDocument when they do not belong together."""
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidDocument(f"there are {len(manifest.layers)} layers, the image config has {len(config.diff_ids)}")
    return ResolvedImage(compute_digest(raw), manifest, raw, raw_config, config, compute_chain_ids(config.diff_ids))


def check_platform(config: ImageConfig, host: Platform) -> None:
    """Raises Stalled for an image that this host cannot run."""
    offered = Platform(config.os, config.architecture, config.variant)
    if (config.os or config.architecture) and compute_rank(offered, host) is None:
        raise Stalled(f"the image is made for {offered}, this host is {host}", reason="PlatformNotFound")
