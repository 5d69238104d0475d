"""OCI image layout (image-spec image-layout.md), as a directory or a tar: ``index.json`` names manifests by digest."""

from __future__ import annotations

from collections.abc import Iterator

from agent.image.archive.dockerarchive import FoundImage, make_resolved
from agent.image.archive.files import ArchiveFiles, InvalidArchive
from agent.image.errors import DigestMismatch
from agent.image.transfer.puller import MAX_INDEX_DEPTH
from agent.oci.descriptor import OCI_INDEX, REF_NAME, Descriptor
from agent.oci.digest import Digest, compute_digest, hex_of, render_shortened
from agent.oci.document import InvalidDocument, decode_document, take_text
from agent.oci.imageconfig import decode_image_config
from agent.oci.manifest import Index, Manifest, decode_manifest, select_manifest
from agent.oci.platform import Platform
from agent.oci.reference import InvalidReference, parse_reference

LAYOUT, INDEX = "oci-layout", "index.json"
CONTAINERD_NAME = "io.containerd.image.name"
VERSIONS = frozenset({"1.0.0", "1.1.0"})


def read_layout(files: ArchiveFiles, host: Platform, label: str = "") -> Iterator[FoundImage]:
    """The images that the layout's table of contents names, or only the one called ``label``.

    Of an index the manifest that suits ``host`` is taken. An image that is listed under several names comes once for
    each. Layers are taken into the content store when it is the image's turn. Raises InvalidArchive, InvalidDocument,
    Refused, Stalled.
    """
    version = take_text(decode_document(files.read(LAYOUT), LAYOUT), "imageLayoutVersion")
    if version not in VERSIONS:
        raise InvalidArchive(f"the OCI layout has the version {render_shortened(version)}; 1.0.0 is known")
    index = decode_manifest(files.read(INDEX), OCI_INDEX)
    entries = index.manifests if isinstance(index, Index) else ()
    wanted = [entry for entry in entries if not label or label in labels_of(entry)]
    if label and not wanted:
        held = ", ".join(render_shortened(name) for entry in entries for name in labels_of(entry)[:1])
        hint = f"it holds {held[:500]}" if held else "its images have no names: leave the name away"
        raise InvalidArchive(f"the layout has no image called {render_shortened(label)}", hint=hint)
    for entry in wanted:
        yield _read_image(files, entry, host)


def labels_of(entry: Descriptor) -> tuple[str, ...]:
    """What an entry of index.json is called: full names, and bare tags."""
    texts = (entry.annotations.get(CONTAINERD_NAME, ""), entry.annotations.get(REF_NAME, ""))
    return tuple(text for text in texts if text)


def _read_image(files: ArchiveFiles, entry: Descriptor, host: Platform) -> FoundImage:
    descriptor = entry
    for _ in range(MAX_INDEX_DEPTH + 1):
        data = _read_blob(files, descriptor)
        manifest = decode_manifest(data, descriptor.media_type)
        if isinstance(manifest, Manifest):
            break
        descriptor = select_manifest(manifest, host)
    else:
        raise InvalidDocument("the layout holds an index of indexes of indexes")
    raw_config = _read_blob(files, manifest.config)
    config = decode_image_config(raw_config)
    for layer in manifest.layers:
        if files.take(_path(layer.digest), layer.digest).size != layer.size:
            raise InvalidDocument(f"the layer {layer.digest} has another size than its manifest says")
    names = tuple(dict.fromkeys(name for text in labels_of(entry) if (name := _full_name(text))))
    image = make_resolved(manifest, data, raw_config, config)
    return FoundImage(image, names, entry.annotations.get(REF_NAME, ""))


def _read_blob(files: ArchiveFiles, descriptor: Descriptor) -> bytes:
    """A document of the layout, verified."""
    data = files.read(_path(descriptor.digest))
    if compute_digest(data) != descriptor.digest:
        raise DigestMismatch(f"the layout's blob {descriptor.digest} has other content")
    if len(data) != descriptor.size:
        raise InvalidDocument(f"{descriptor.digest} has another size than its descriptor says")
    return data


def _path(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _full_name(text: str) -> str:
    """A label as a full reference, or nothing when it is only a tag."""
    if "/" not in text and ":" not in text:
        return ""
    try:
        return str(parse_reference(text))
    except InvalidReference:
        return ""
