"""What images are local: records in the database, mirrored to index.json, searched in memory."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from agent.errors import Conflict, HoldfastError, Refused
from agent.image.errors import ImageNotFound, InsufficientStorage
from agent.image.storage.content import ContentStore
from agent.image.storage.snapshots import Records, compute_chain_names
from agent.oci.descriptor import OCI_INDEX, OCI_MANIFEST, REF_NAME, Descriptor
from agent.oci.digest import Digest, compute_chain_ids, parse_digest, render_shortened
from agent.oci.imageconfig import decode_image_config
from agent.oci.manifest import Index, Manifest, decode_manifest
from agent.oci.reference import InvalidReference, parse_reference
from agent.values import frozen

KIND = "image"
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{6,64})\Z", re.ASCII)


@frozen
class ImageEntry:
    """A local image. ``id`` is its config's digest, ``digest`` its manifest's as the registry has it.

    ``names`` are full references. ``size`` is the sum of the packed layers in bytes, ``created`` what the image
    says (RFC 3339 or empty), ``pulled`` epoch seconds. ``manifest`` and ``manifest_size`` name the OCI manifest in
    the content store; ``blobs`` are all blobs and ``chains`` all snapshots the image needs, bottom first. A ``local``
    image was made here, so no registry need have it. ``used`` is when it was last used, epoch seconds, roughly.
    """

    id: Digest
    digest: Digest
    names: tuple[str, ...]
    size: int
    created: str
    pulled: float
    manifest: Digest
    manifest_size: int
    blobs: tuple[Digest, ...]
    chains: tuple[str, ...]
    local: bool = False
    used: float = 0.0


def encode_entry(entry: ImageEntry) -> dict[str, Any]:
    """The database's document."""
    return {
        "digest": entry.digest,
        "names": list(entry.names),
        "size": entry.size,
        "created": entry.created,
        "pulled": entry.pulled,
        "manifest": entry.manifest,
        "manifest_size": entry.manifest_size,
        "blobs": list(entry.blobs),
        "chains": list(entry.chains),
        "local": entry.local,
        "used": entry.used,
    }


def decode_entry(image_id: str, document: dict[str, Any]) -> ImageEntry:
    """The entry that ``encode_entry`` wrote."""
    return ImageEntry(
        parse_digest(image_id),
        parse_digest(document["digest"]),
        tuple(document["names"]),
        document["size"],
        document["created"],
        document["pulled"],
        parse_digest(document["manifest"]),
        document["manifest_size"],
        tuple(parse_digest(blob) for blob in document["blobs"]),
        tuple(document["chains"]),
        document.get("local") is True,
        float(document.get("used", 0.0)),
    )


class ImageRecords:
    """The table of images. Thread-safe. A name belongs to one image at a time."""

    def __init__(self, records: Records, content: ContentStore) -> None:
        self._records = records
        self._content = content
        self._lock = threading.RLock()
        self._images = self._load() or self._rebuild()
        self._names = {name: entry.id for entry in self._images.values() for name in entry.names}
        self._write_index()

    def _load(self) -> dict[Digest, ImageEntry]:
        found = {}
        for key, value in self._records.all(KIND).items():
            try:
                found[parse_digest(key)] = decode_entry(key, value)
            except (KeyError, TypeError, Refused):
                self._records.delete(KIND, key)
        return found

    def _rebuild(self) -> dict[Digest, ImageEntry]:
        """The images that index.json names: what is left when the database was lost."""
        found: dict[Digest, ImageEntry] = {}
        try:
            index = decode_manifest(self._content.read_index(), OCI_INDEX)
        except Refused:
            return found
        for descriptor in index.manifests if isinstance(index, Index) else ():
            try:
                entry = self._describe(descriptor)
            except (OSError, HoldfastError):
                continue
            names = found[entry.id].names if entry.id in found else ()
            found[entry.id] = replace(entry, names=(*names, *entry.names))
        for entry in found.values():
            self._records.put(KIND, entry.id, encode_entry(entry))
        return found

    def _describe(self, descriptor: Descriptor) -> ImageEntry:
        manifest = decode_manifest(self._content.read(descriptor.digest), descriptor.media_type)
        if not isinstance(manifest, Manifest):
            raise Refused("the store's table of contents names an index")
        config = decode_image_config(self._content.read(manifest.config.digest))
        if any(self._content.size(layer.digest) != layer.size for layer in manifest.layers):
            raise Refused("a layer is missing")
        name = descriptor.annotations.get(REF_NAME)
        layers = tuple(layer.digest for layer in manifest.layers)
        return ImageEntry(
            id=manifest.config.digest,
            digest=descriptor.digest,
            names=(str(parse_reference(name)),) if name else (),
            size=sum(layer.size for layer in manifest.layers),
            created=config.created,
            pulled=0.0,
            manifest=descriptor.digest,
            manifest_size=descriptor.size,
            blobs=(descriptor.digest, manifest.config.digest, *layers),
            chains=compute_chain_names(compute_chain_ids(config.diff_ids)),
        )

    def _write_index(self) -> None:
        named = [
            (Descriptor(OCI_MANIFEST, entry.manifest, entry.manifest_size), entry.names)
            for entry in self._images.values()
        ]
        self._content.write_index(named)

    def all(self) -> tuple[ImageEntry, ...]:
        """Every image."""
        return tuple(self._images.values())

    def get(self, image_id: Digest) -> ImageEntry | None:
        """By its whole id."""
        return self._images.get(image_id)

    def find(self, name_or_id: str) -> ImageEntry | None:
        """By full or short reference, by id, or by a unique prefix of the id of at least 6 digits."""
        by_name = self._find_name(name_or_id)
        return by_name or self._find_id(name_or_id)

    def _find_name(self, name: str) -> ImageEntry | None:
        try:
            reference = parse_reference(name)
        except InvalidReference:
            return None
        with self._lock:
            image = self._names.get(str(reference))
            if image is None and reference.digest is not None:
                return next((entry for entry in self._images.values() if _is_from(entry, reference.digest)), None)
            return self._images.get(image) if image else None

    def _find_id(self, text: str) -> ImageEntry | None:
        match = _ID.match(text)
        if match is None:
            return None
        with self._lock:
            found = [entry for key, entry in self._images.items() if key.startswith(f"sha256:{match[1]}")]
        if len(found) > 1:
            raise Conflict(f"{text} is the beginning of {len(found)} image ids", reason="AmbiguousImageId")
        return found[0] if found else None

    def require(self, name_or_id: str) -> ImageEntry:
        """As ``find``. Raises ImageNotFound."""
        entry = self.find(name_or_id)
        if entry is None:
            raise ImageNotFound(
                f"the image {render_shortened(name_or_id)} is not local", hint="holdfast image ls lists all"
            )
        return entry

    def has_unpacked(self, blob: Digest, chain: str) -> bool:
        """Whether an image has a layer whose blob and chain these are."""
        for entry in self.all():
            if blob in entry.blobs and (blob, chain) in zip(
                reversed(entry.blobs), reversed(entry.chains), strict=False
            ):
                return True
        return False

    def put(self, entry: ImageEntry) -> ImageEntry:
        """Add an image, or its new names; names move here from other images. Returns what is recorded now."""
        with self._lock:
            present = self._images.get(entry.id)
            names = tuple(dict.fromkeys((*(present.names if present else ()), *entry.names)))
            if present is not None:
                used = max(present.used, entry.used)
                entry = replace(entry, local=entry.local and present.local, used=used)
            changed = [replace(entry, names=names), *self._without(names, entry.id)]
            self._store(changed)
            return changed[0]

    def _without(self, names: Iterable[str], keeper: Digest) -> list[ImageEntry]:
        taken = set(names)
        return [
            replace(other, names=tuple(name for name in other.names if name not in taken))
            for other in self._images.values()
            if other.id != keeper and taken.intersection(other.names)
        ]

    def _store(self, entries: Iterable[ImageEntry]) -> None:
        for entry in entries:
            self._records.put(KIND, entry.id, encode_entry(entry))
            self._images[entry.id] = entry
        self._names = {name: entry.id for entry in self._images.values() for name in entry.names}
        self._write_index()

    def remove(self, name_or_id: str) -> ImageEntry | None:
        """Take a name away, or a whole image by its id; the image goes with its last name.

        Returns the image when it is gone, else None. Blobs and snapshots stay until they are pruned.
        """
        with self._lock:
            by_name = self._find_name(name_or_id)
            entry = by_name or self.require(name_or_id)
            rest = tuple(name for name in entry.names if name != str(parse_reference(name_or_id))) if by_name else ()
            if rest and rest != entry.names:
                self._store([replace(entry, names=rest)])
                return None
            self._drop(entry)
            return entry

    def _drop(self, entry: ImageEntry) -> None:
        self._records.delete(KIND, entry.id)
        del self._images[entry.id]
        self._names = {name: image for name, image in self._names.items() if image != entry.id}
        with suppress(InsufficientStorage):  # a full disk must not keep anything from being removed
            self._write_index()

    def discard(self, image_id: Digest) -> None:
        """Forget an image with all its names; an absent one is fine."""
        with self._lock:
            entry = self._images.get(image_id)
            if entry is not None:
                self._drop(entry)

    def unname(self, image_id: Digest) -> ImageEntry | None:
        """Take all names of an image away, and leave it. Returns it as it is now; None when it is not there."""
        with self._lock:
            entry = self._images.get(image_id)
            if entry is None or not entry.names:
                return entry
            self._store([replace(entry, names=())])
            return self._images[image_id]

    def note_use(self, image_id: Digest, at: float) -> None:
        """Write down when an image was last used."""
        with self._lock:
            entry = self._images.get(image_id)
            if entry is not None and entry.used < at:
                entry = replace(entry, used=at)
                self._records.put(KIND, image_id, encode_entry(entry))
                self._images[image_id] = entry


def _is_from(entry: ImageEntry, digest: Digest) -> bool:
    return digest in (entry.digest, entry.manifest)
