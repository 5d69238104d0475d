"""Descriptors: how one piece of content names another (image-spec, descriptor.md), and the media types we know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

from agent.errors import Unsupported
from agent.oci.digest import Digest, parse_digest, render_shortened
from agent.oci.document import InvalidDocument, take_object, take_size, take_text, take_text_map
from agent.oci.platform import Platform, decode_platform, encode_platform
from agent.values import frozen

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
SCHEMA1_TYPES = frozenset(f"application/vnd.docker.distribution.manifest.v1+{form}" for form in ("json", "prettyjws"))
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYER_TYPES = frozenset({OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD})
REF_NAME = "org.opencontainers.image.ref.name"
EMPTY: Mapping[str, str] = MappingProxyType({})


@frozen
class Descriptor:
    """What content is (``media_type``), its digest and its exact ``size`` in bytes.

    The specification's ``urls`` are deliberately not kept: content comes from the image's own registry only
    (attack row 50).
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=lambda: EMPTY)


def decode_descriptor(document: Mapping[str, Any]) -> Descriptor:
    """Raises InvalidDocument, or Refused for a digest that is not one."""
    media_type = take_text(document, "mediaType")
    if not media_type:
        raise InvalidDocument("a descriptor has no mediaType")
    return Descriptor(
        media_type,
        parse_digest(document.get("digest")),
        take_size(document, "size"),
        decode_platform(take_object(document, "platform")) if document.get("platform") is not None else None,
        MappingProxyType(take_text_map(document, "annotations")),
    )


def encode_descriptor(descriptor: Descriptor) -> dict[str, Any]:
    """The mapping that manifests and indexes hold."""
    document: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.platform is not None:
        document["platform"] = encode_platform(descriptor.platform)
    if descriptor.annotations:
        document["annotations"] = dict(descriptor.annotations)
    return document


def check_layer_type(descriptor: Descriptor) -> None:
    """Raises Unsupported unless the descriptor is a plain, gzip or zstd layer."""
    if descriptor.media_type in LAYER_TYPES:
        return
    kind = render_shortened(descriptor.media_type)
    foreign = "foreign" in descriptor.media_type or "nondistributable" in descriptor.media_type
    hint = "foreign layers are never fetched" if foreign else "only tar layers, plain or with gzip or zstd, are known"
    raise Unsupported(f"the image has a layer of type {kind}", reason="UnsupportedLayer", hint=hint)
