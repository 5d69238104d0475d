"""Layers of builds elsewhere, in a directory or in an image: what ``cache_to`` writes and ``cache_from`` reads.

A directory is an OCI layout, one image for each stage, beside a table of the keys under which the layers were made; an
image has that table in its config. Whatever is read is verified as any image's layers are; the keys are believed, so a
cache is only as good as whoever wrote it, and what it says counts for builds of one scope alone.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.builder.cache import decode_layer, encode_layer
from agent.errors import NotFound, Refused, Waiting
from agent.image.archive.layout import INDEX, LAYOUT
from agent.image.errors import translated_storage_errors
from agent.image.storage.commit import LayerBlob
from agent.image.store import ImageStore
from agent.kernel.process import read_small_file
from agent.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, REF_NAME, Descriptor, encode_descriptor
from agent.oci.digest import compute_digest, hex_of
from agent.oci.document import encode_document
from agent.oci.imageconfig import ImageConfig, encode_image_config
from agent.oci.manifest import Manifest, encode_manifest
from agent.oci.platform import Platform
from agent.oci.source import LocalImage
from agent.store.atomic import write_atomic
from agent.values import frozen

TABLE = "holdfast-build-cache.json"
VERSION = 1
_MAX_TABLE = 16 << 20
_BLOBS = Path("blobs", "sha256")
Put = Callable[[str, LayerBlob], None]


@frozen
class KeptLayer:
    """A step's layer by its key in the layer cache."""

    key: str
    layer: LayerBlob


def import_image(images: ImageStore, put: Put, reference: str, cancel: threading.Event) -> None:
    """Hand the layers of an image to ``put``, by the keys that the image says itself; it is pulled anew.

    Raises NotFound for one that says none, and what a pull raises.
    """
    try:
        entry = images.pull(reference, policy="always", cancel=cancel)
    except (NotFound, Waiting):
        entry = images.pull(reference, policy="never", cancel=cancel)
    keys, layers = images.config(entry.id).build_cache, images.layers(entry.id)
    if not keys or max(keys.values()) >= len(layers):
        raise NotFound(
            f"the image {reference} holds no build cache",
            reason="CacheNotFound",
            hint="build it with cache_to: type=inline",
        )
    for key, index in keys.items():
        put(key, layers[index])


def describe_layers(layers: Sequence[LayerBlob], kept: Sequence[KeptLayer]) -> dict[str, int]:
    """The keys of an image's layers, for ``import_image`` of another build."""
    places = {layer.chain_id: index for index, layer in enumerate(layers)}
    return {one.key: places[one.layer.chain_id] for one in kept if one.layer.chain_id in places}


def import_cache(images: ImageStore, put: Put, directory: str, cancel: threading.Event) -> None:
    """Hand the layers of a directory to ``put``.

    Raises NotFound when there is no cache in it, Refused for a damaged one, PullCancelled, InsufficientStorage.
    """
    table = _read_table(Path(directory))
    brought = {}
    known: dict[str, LayerBlob] = {}
    for label in table["images"]:
        entry = images.archives.bring(LocalImage("oci", directory, label), cancel=cancel)
        brought[entry.id] = entry
        known |= {layer.chain_id: layer for layer in images.layers(entry.id)}
    for key, document in table["layers"].items():
        layer = decode_layer(document)
        if layer is None or known.get(layer.chain_id) != layer:
            raise Refused(f"the build cache {directory} names a layer that it does not hold", reason="InvalidCache")
        put(key, layer)
    for entry in brought.values():
        if not entry.names:
            images.remove(entry.id)


def _read_table(directory: Path) -> dict[str, dict[str, dict[str, object]]]:
    try:
        table = json.loads(read_small_file(str(directory / TABLE), _MAX_TABLE))
    except FileNotFoundError:
        raise NotFound(f"there is no build cache in {directory}", reason="CacheNotFound") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"the build cache {directory} cannot be read: {error}", reason="InvalidCache") from None
    known = isinstance(table, dict) and table.get("version") == VERSION
    if not known or not isinstance(table.get("images"), list) or not isinstance(table.get("layers"), dict):
        raise Refused(f"{directory} holds no build cache of this version of holdfast", reason="InvalidCache")
    if not all(isinstance(label, str) for label in table["images"]):
        raise Refused(f"the build cache {directory} is damaged", reason="InvalidCache")
    found: dict[str, dict[str, dict[str, object]]] = table
    return found


def export_cache(
    images: ImageStore,
    directory: str,
    stages: Sequence[Sequence[LayerBlob]],
    kept: Sequence[KeptLayer],
    platform: Platform,
) -> None:
    """Write all layers of some stages; what the directory held before and is not needed any more goes.

    A reader finds the old content or the new one. Raises StorageFailed, InsufficientStorage.
    """
    top = Path(directory)
    stacks = {layers[-1].chain_id: layers for layers in stages if layers}
    with translated_storage_errors():
        (top / _BLOBS).mkdir(parents=True, exist_ok=True)
        entries, labels, wanted = [], [], set()
        for number, layers in enumerate(stacks.values()):
            manifest, documents = _describe(layers, platform)
            for data in documents:
                write_atomic(top / _BLOBS / hex_of(compute_digest(data)), data, durable=False)
            for layer in layers:
                _copy(images.content.path(layer.descriptor.digest), top / _BLOBS / hex_of(layer.descriptor.digest))
            wanted |= {hex_of(compute_digest(data)) for data in documents}
            wanted |= {hex_of(layer.descriptor.digest) for layer in layers}
            labels.append(f"stage-{number}")
            entries.append({**encode_descriptor(manifest), "annotations": {REF_NAME: labels[-1]}})
        table = {"version": VERSION, "images": labels, "layers": {one.key: encode_layer(one.layer) for one in kept}}
        write_atomic(top / LAYOUT, json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        write_atomic(top / INDEX, encode_document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))
        write_atomic(top / TABLE, json.dumps(table).encode())
        for path in (top / _BLOBS).iterdir():
            if path.name not in wanted:
                path.unlink()


def _describe(layers: Sequence[LayerBlob], platform: Platform) -> tuple[Descriptor, tuple[bytes, bytes]]:
    """The manifest of an image of nothing but these layers; and what has to be stored for it."""
    diff_ids = tuple(layer.diff_id for layer in layers)
    config = encode_image_config(ImageConfig(platform.architecture, platform.os, platform.variant, diff_ids=diff_ids))
    descriptor = Descriptor(OCI_CONFIG, compute_digest(config), len(config))
    manifest = encode_manifest(Manifest(descriptor, tuple(layer.descriptor for layer in layers)))
    return Descriptor(OCI_MANIFEST, compute_digest(manifest), len(manifest)), (config, manifest)


def _copy(source: Path, target: Path) -> None:
    """Copy a blob, whole or not at all; one that is there has been copied before."""
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    part = target.with_name(f".{target.name}.part")
    with source.open("rb") as reading, part.open("wb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)
        os.fsync(writing.fileno())
    part.rename(target)
