"""What a push brings: one image, or the images of one name for all platforms and the index that lists them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent.errors import Conflict, Stalled, Unsupported
from agent.image.errors import ImageNotFound
from agent.image.storage.content import ContentStore
from agent.image.storage.indexes import IndexRecords, StoredIndex
from agent.image.storage.platforms import platform_of
from agent.image.storage.records import ImageEntry, ImageRecords
from agent.oci.descriptor import INDEX_TYPES, OCI_INDEX, OCI_MANIFEST, Descriptor
from agent.oci.digest import Digest, compute_digest
from agent.oci.document import decode_document, take_text
from agent.oci.imageconfig import decode_image_config
from agent.oci.manifest import Index, encode_manifest
from agent.oci.platform import Platform
from agent.oci.reference import InvalidReference, Reference, parse_reference, parse_repository
from agent.values import frozen

_UNKNOWN = Platform("unknown", "unknown")
"""What BuildKit writes for entries that are no images but say something of one: attestations."""


@frozen
class Cargo:
    """``images`` go first; ``index`` lists them, if they go together. ``left_out`` entries of it do not go along."""

    images: tuple[ImageEntry, ...]
    index: StoredIndex | None = None
    left_out: int = 0

    @property
    def digest(self) -> Digest:
        """What it is in the registry."""
        return compute_digest(self.index.data) if self.index is not None else self.images[0].digest


class CargoLoader:
    """Finds all that is local of one name."""

    def __init__(self, images: ImageRecords, content: ContentStore, indexes: IndexRecords) -> None:
        self._images = images
        self._content = content
        self._indexes = indexes

    def find(self, image: str, target: str | None, *, all_platforms: bool) -> tuple[Cargo, Reference]:
        """What to bring, and where to: to ``target``, else where its name says. With ``all_platforms`` all that is
        local of the name, and an index.

        Raises InvalidReference, ImageNotFound, Stalled, Conflict.
        """
        if all_platforms:
            return self.load(image), parse_reference(target or image)
        entry = self._images.require(image)
        return Cargo((entry,)), parse_reference(target) if target else own_name(entry, image)

    def tags(self, repository: str, *, all_platforms: bool) -> tuple[str, ...]:
        """The tags of what is local of a repository, sorted; with ``all_platforms`` also those that only images for
        other platforms have. Raises InvalidReference, ImageNotFound when there are none."""
        wanted = parse_repository(repository)
        found = {
            named.tag
            for entry in self._images.all()
            for named in map(parse_reference, entry.names)
            if (named.registry, named.repository) == (wanted.registry, wanted.repository)
            if named.tag is not None and (named.digest is None or all_platforms)
        }
        if not found:
            raise ImageNotFound(f"no image with a tag of {repository} is local", hint="holdfast image ls lists all")
        return tuple(sorted(found))

    def load(self, name: str) -> Cargo:
        """All platforms of an image: the index as it came, if all its images are local, else one that is made now.

        Raises InvalidReference, ImageNotFound, Stalled when some of the index are missing, Conflict.
        """
        reference = parse_reference(name)
        local = [entry for entry in self._images.all() if _is_called(entry, reference)]
        if not local:
            raise ImageNotFound(
                f"{reference.familiar()} is not local", hint=f"holdfast pull {reference.familiar()}, for each platform"
            )
        current = [entry for entry in local if str(reference) in entry.names] or local
        stored = next(filter(None, (self._indexes.find(reference, entry) for entry in current)), None)
        return self._make(local) if stored is None else self._complete(reference, stored)

    def _complete(self, reference: Reference, stored: StoredIndex) -> Cargo:
        """The index as it came. Attestations are never local: without them it has to be written anew."""
        kept = tuple(entry for entry in stored.index.manifests if entry.platform != _UNKNOWN)
        if any(entry.media_type in INDEX_TYPES for entry in kept):
            raise Unsupported(f"{reference.familiar()} is an index of indexes, which is pushed nowhere")
        by_digest = {entry.digest: entry for entry in self._images.all()}
        missing = [entry for entry in kept if entry.digest not in by_digest]
        if missing:
            named = ", ".join(str(entry.platform or entry.digest) for entry in missing[:20])
            raise Stalled(
                f"not all of {reference.familiar()} is local: {named} is missing",
                reason="ImageIncomplete",
                hint=f"holdfast pull --platform {missing[0].platform or 'PLATFORM'} {reference.familiar()}",
            )
        images = tuple(dict.fromkeys(by_digest[entry.digest] for entry in kept))
        left_out = len(stored.index.manifests) - len(kept)
        return Cargo(images, _encode(replace(stored.index, manifests=kept)) if left_out else stored, left_out)

    def _make(self, local: Iterable[ImageEntry]) -> Cargo:
        """An index of what has the name, in the order of its platforms."""
        described = sorted(self._describe(local), key=lambda pair: str(pair[0].platform))
        platforms = [descriptor.platform for descriptor, _ in described]
        for platform in platforms:
            if platforms.count(platform) > 1:
                found = ", ".join(entry.id[7:19] for descriptor, entry in described if descriptor.platform == platform)
                raise Conflict(f"two images are for {platform}: {found}", hint="holdfast image rm the one not wanted")
        index = Index(tuple(descriptor for descriptor, _ in described), OCI_INDEX)
        return Cargo(tuple(entry for _, entry in described), _encode(index))

    def _describe(self, local: Iterable[ImageEntry]) -> Iterator[tuple[Descriptor, ImageEntry]]:
        for entry in local:
            data = self._read(entry.digest)
            kind = take_text(decode_document(data, "the manifest"), "mediaType") or OCI_MANIFEST
            platform = platform_of(decode_image_config(self._read(entry.id)))
            if platform is None:
                raise Stalled(f"the image {entry.id} does not say what it is made for", reason="PlatformNotFound")
            yield Descriptor(kind, entry.digest, len(data), platform), entry

    def _read(self, digest: Digest) -> bytes:
        try:
            return self._content.read(digest)
        except FileNotFoundError as error:
            raise ImageNotFound(f"the blob {digest} is missing", hint="pull the image again") from error


def _is_called(entry: ImageEntry, reference: Reference) -> bool:
    """Whether an image has a name, or has it with its digest behind it, as those for other platforms do."""
    return not {str(reference), str(reference.with_digest(entry.digest))}.isdisjoint(entry.names)


def _encode(index: Index) -> StoredIndex:
    return StoredIndex(encode_manifest(index), index.media_type, index)


def own_name(entry: ImageEntry, name: str) -> Reference:
    """The reference to push an image to when nothing else is said. Raises Stalled when ``name`` is its id."""
    for known in map(parse_reference, entry.names):
        if str(known) == _full(name):
            return known
    raise Stalled(
        f"{name[:80]} is not a name of the image",
        reason="InvalidReference",
        hint="say where to: holdfast push IMAGE REGISTRY/REPOSITORY:TAG",
    )


def _full(name: str) -> str:
    try:
        return str(parse_reference(name))
    except InvalidReference:
        return ""
