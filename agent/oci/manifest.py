"""Image manifests and indexes, of OCI and of Docker (image-spec manifest.md, image-index.md).

One digest must never be read as two things (CVE-2021-41190, attack row 48): the type comes from outside (the
Content-Type or the descriptor), the document must agree with it, and must not hold the other kind's keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

from agent.errors import Stalled, Unsupported
from agent.oci.descriptor import (
    CONFIG_TYPES,
    EMPTY,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_TYPES,
    Descriptor,
    check_layer_type,
    decode_descriptor,
    encode_descriptor,
)
from agent.oci.digest import render_shortened
from agent.oci.document import (
    Document,
    InvalidDocument,
    decode_document,
    encode_document,
    take_object,
    take_objects,
    take_text_map,
)
from agent.oci.platform import Platform, compute_rank
from agent.values import frozen

MAX_LAYERS = 512
MAX_MANIFESTS = 4096


@frozen
class Manifest:
    """One image for one platform: its config and its layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = OCI_MANIFEST
    annotations: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@frozen
class Index:
    """Manifests of one image for several platforms, or the table of contents of a layout."""

    manifests: tuple[Descriptor, ...]
    media_type: str = OCI_INDEX
    annotations: Mapping[str, str] = field(default_factory=lambda: EMPTY)


def refuse_schema_1(kind: str) -> None:
    """Raises Unsupported for a manifest of Docker's first schema, whose digest is not that of its bytes."""
    if kind in SCHEMA1_TYPES:
        raise Unsupported(
            "the image has a manifest of schema 1, Docker's format until 2017, which is not read",
            reason="UnsupportedImage",
            hint="write it anew: skopeo copy --format oci docker://NAME docker://NAME",
        )


def decode_manifest(data: bytes, media_type: str | None) -> Manifest | Index:
    """Decode what ``media_type`` (a Content-Type or a descriptor's mediaType) says ``data`` is.

    Raises InvalidDocument for anything ambiguous or malformed, Unsupported for what is not a container image.
    """
    kind = (media_type or "").partition(";")[0].strip().lower()
    refuse_schema_1(kind)
    if kind not in MANIFEST_TYPES | INDEX_TYPES:
        raise InvalidDocument(f"the manifest has the unknown type {render_shortened(kind)}")
    document = decode_document(data, "the manifest")
    _check_kind(document, kind)
    annotations = MappingProxyType(take_text_map(document, "annotations"))
    if kind in INDEX_TYPES:
        entries = take_objects(document, "manifests", MAX_MANIFESTS)
        return Index(tuple(decode_descriptor(entry) for entry in entries), kind, annotations)
    return _decode_image(document, kind, annotations)


def _check_kind(document: Document, kind: str) -> None:
    version = document.get("schemaVersion")
    if not isinstance(version, int) or isinstance(version, bool) or version != 2:
        raise InvalidDocument("the manifest's schemaVersion is not 2")
    stated = document.get("mediaType")
    if stated != kind and (stated is not None or "docker" in kind):
        raise InvalidDocument(f"the manifest says it is {render_shortened(stated)} but came as {kind}")
    foreign = {"layers", "config", "fsLayers"} if kind in INDEX_TYPES else {"manifests", "fsLayers"}
    for key in sorted(foreign & document.keys()):
        raise InvalidDocument(f"the manifest came as {kind} but has {key}")


def _decode_image(document: Document, kind: str, annotations: Mapping[str, str]) -> Manifest:
    config = decode_descriptor(take_object(document, "config"))
    if config.media_type not in CONFIG_TYPES:
        raise Unsupported(
            f"not a container image: its config has the type {render_shortened(config.media_type)}",
            reason="UnsupportedImage",
        )
    layers = tuple(decode_descriptor(entry) for entry in take_objects(document, "layers", MAX_LAYERS))
    for layer in layers:
        check_layer_type(layer)
    return Manifest(config, layers, kind, annotations)


def encode_manifest(manifest: Manifest | Index) -> bytes:
    """The canonical bytes; their digest names the manifest."""
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": manifest.media_type}
    if isinstance(manifest, Index):
        document["manifests"] = [encode_descriptor(entry) for entry in manifest.manifests]
    else:
        document["config"] = encode_descriptor(manifest.config)
        document["layers"] = [encode_descriptor(layer) for layer in manifest.layers]
    if manifest.annotations:
        document["annotations"] = dict(manifest.annotations)
    return encode_document(document)


def select_manifest(index: Index, host: Platform) -> Descriptor:
    """The entry that suits ``host`` best; the first of equals. Raises Stalled when there is none.

    An index with one entry that names no platform has nothing to choose: that entry is taken.
    """
    if len(index.manifests) == 1 and index.manifests[0].platform is None:
        return index.manifests[0]
    ranked = [
        (rank, position)
        for position, entry in enumerate(index.manifests)
        if entry.platform is not None and (rank := compute_rank(entry.platform, host)) is not None
    ]
    if not ranked:
        offered = ", ".join(sorted({str(entry.platform) for entry in index.manifests if entry.platform}))
        raise Stalled(
            f"the image is not made for {host}",
            reason="PlatformNotFound",
            hint=f"it offers {offered[:500] or 'no platform'}",
        )
    return index.manifests[min(ranked)[1]]
