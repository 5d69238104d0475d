"""Images to and from files: load, save, import, and images that the desired state names by a path of the host."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from agent.errors import Stalled
from agent.image.archive.assembly import assemble_image
from agent.image.archive.layout import INDEX
from agent.image.archive.load import ArchiveLoader, LoadedImage, Naming, missing_source
from agent.image.archive.save import Format, SavedImage, make_descriptor, stream_archive
from agent.image.errors import HostileLayer, ImageNotFound, translated_storage_errors
from agent.image.layers.decompress import decompress
from agent.image.layers.layer import LayerPipeline
from agent.image.layers.layertar import LayerTar
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from agent.image.progress import ProgressCallback, PullTracker
from agent.image.storage.commit import Packer
from agent.image.storage.records import ImageEntry
from agent.image.storage.snapshots import TREE
from agent.image.stores import Stores
from agent.image.trust.policy_gate import ARCHIVE
from agent.oci.descriptor import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from agent.oci.digest import Digest
from agent.oci.imageconfig import ImageConfig
from agent.oci.manifest import Manifest, decode_manifest
from agent.oci.platform import compute_platform
from agent.oci.reference import InvalidReference, parse_reference
from agent.oci.source import LocalImage

Chunks = Generator[bytes, None, None]


class ImageArchives:
    """Part of the image store. Thread-safe and blocking; ``flush`` is called when something came in."""

    def __init__(self, stores: Stores, limits: UnpackLimits, flush: Callable[[], None]) -> None:
        self._stores = stores
        self._limits = limits
        self._flush = flush
        self._loader = ArchiveLoader(stores, limits)

    def load(
        self,
        chunks: Chunks,
        naming: Naming,
        *,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[LoadedImage, ...]:
        """Every image of an archive (see ``ArchiveLoader.load``). Raises HoldfastError."""
        with translated_storage_errors():
            loaded = self._loader.load(chunks, naming, PullTracker("the archive", progress, cancel, "load"))
        self._flush()
        return loaded

    def bring(
        self,
        source: LocalImage,
        *,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageEntry:
        """The image that a path of the host means; it gets no name. Raises HoldfastError."""
        if not source.path.startswith("/"):
            raise Stalled(f"{source} is not absolute", reason="InvalidReference", hint="write the whole path")
        tracker = PullTracker(str(source), progress, cancel, "load")
        if source.kind == "dir":
            entry = self._bring_directory(source, tracker)
        else:
            with translated_storage_errors():
                entry = self._loader.bring(source, tracker)
        self._flush()
        return entry

    def _bring_directory(self, source: LocalImage, tracker: PullTracker) -> ImageEntry:
        """A root file system as an image of one layer: the same tree gives the same image."""
        self._loader.check(str(source))
        tracker.report("reading")
        platform = compute_platform(os.uname().machine)
        config = ImageConfig(platform.architecture, platform.os, platform.variant)
        return self._make(_read_tree(source), config, ())

    def import_tar(
        self,
        chunks: Chunks,
        config: ImageConfig,
        name: str | None,
        *,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageEntry:
        """A tar of a root file system, packed or not, as an image of one layer. Raises HoldfastError."""
        names = (str(parse_reference(name)),) if name else ()
        self._loader.check(names[0] if names else ARCHIVE)
        tracker = PullTracker("the archive", progress, cancel, "import")
        tracker.report("unpacking")
        try:
            entry = self._make(_unpacked(chunks, self._limits), config, names)
        except HostileLayer as error:
            hint = "expected is the whole tar of a root file system, as `holdfast export` writes it"
            raise HostileLayer(error.message.replace("the layer", "the tar"), hint=hint) from error
        self._flush()
        return entry

    def _make(self, tar: Chunks, config: ImageConfig, names: tuple[str, ...]) -> ImageEntry:
        """An image of one layer, whose tar is read once: packed, unpacked and hashed in one pass."""
        content, snapshots = self._stores.content, self._stores.snapshots
        with translated_storage_errors():
            packed, path = Packer(content.new_ingest(), "gzip"), snapshots.prepare()
            try:
                pipeline = LayerPipeline(Unpacker(path / TREE, self._limits))
                diff_id = pipeline.run(packed.tee(tar), None)
                pipeline.settle(())
                with self._stores.leases.held((packed.digest, diff_id)):
                    content.commit(packed.path, packed.digest)
                    snapshots.commit(path, diff_id, pipeline.size)
                    layer = Descriptor(OCI_LAYER_GZIP, packed.digest, packed.size)
                    return assemble_image(self._stores, replace(config, diff_ids=(diff_id,)), (layer,), names)
            except BaseException:
                snapshots.discard(path)
                packed.path.unlink(missing_ok=True)
                raise

    def save(self, names: Sequence[str], form: Format) -> Chunks:
        """The archive of some images, each under the name it was asked by; by its id it has none in the archive.

        Nothing that is being saved is removed meanwhile. Raises ImageNotFound, Conflict before the first chunk.
        """
        asked: dict[Digest, tuple[ImageEntry, tuple[str, ...]]] = {}
        for text in names:
            entry = self._stores.images.require(text)
            known = asked.get(entry.id, (entry, ()))[1]
            asked[entry.id] = (entry, tuple(dict.fromkeys((*known, *_name_of(text, entry)))))
        images = [self._describe(entry, under) for entry, under in asked.values()]
        return self._stream([entry for entry, _ in asked.values()], images, form)

    def _stream(self, entries: Sequence[ImageEntry], images: Sequence[SavedImage], form: Format) -> Chunks:
        with self._stores.leases.held({key for entry in entries for key in (entry.id, *entry.blobs)}):
            yield from stream_archive(self._stores.content, images, form)

    def _describe(self, entry: ImageEntry, names: tuple[str, ...]) -> SavedImage:
        content = self._stores.content
        missing = [blob for blob in entry.blobs if content.size(blob) is None]
        if missing:
            raise ImageNotFound(f"the blob {missing[0]} of {entry.id} is missing", hint="pull the image again")
        manifest = decode_manifest(content.read(entry.manifest), OCI_MANIFEST)
        if not isinstance(manifest, Manifest):
            raise ImageNotFound(f"the manifest of {entry.id} is an index", hint="pull the image again")
        return SavedImage(make_descriptor(entry.manifest, entry.manifest_size), manifest, names)

    def state(self, source: LocalImage) -> str:
        """A digest that changes when the source may have changed: of the state of its files, not of what they hold.

        Raises Waiting when it cannot be read, ImageRejected when the policy has come to refuse it.
        """
        self._loader.check(str(source))
        total = hashlib.sha256()
        try:
            for line in _state_lines(Path(source.path), source.kind):
                total.update(line)
        except OSError as error:
            raise missing_source(source, error) from None
        return f"sha256:{total.hexdigest()}"


def _name_of(text: str, entry: ImageEntry) -> tuple[str, ...]:
    try:
        name = str(parse_reference(text))
    except InvalidReference:
        return ()
    return (name,) if name in entry.names else ()


def _read_tree(source: LocalImage) -> Chunks:
    """The tar of a directory of the host, which may change meanwhile."""
    try:
        yield from LayerTar(Path(source.path)).stream()
    except OSError as error:
        raise missing_source(source, error) from None


def _unpacked(chunks: Chunks, limits: UnpackLimits) -> Chunks:
    try:
        yield from decompress(chunks, limits)
    finally:
        chunks.close()


def _state_lines(path: Path, kind: str) -> Iterator[bytes]:
    """What is looked at of a source: a file's stamp, an OCI directory's table of contents, all stamps of a tree."""
    status = path.stat()
    if kind == "oci" and stat.S_ISDIR(status.st_mode):
        path = path / INDEX
        status = path.stat()
    yield _stamp(str(path), status)
    if kind == "dir":
        for directory, inner, names, fd in os.fwalk(path.resolve()):
            inner.sort()
            for name in (*sorted(names), "."):
                yield _stamp(f"{directory}/{name}", os.stat(name, dir_fd=fd, follow_symlinks=False))


def _stamp(name: str, status: os.stat_result) -> bytes:
    fields = (status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return f"{name!r} {status.st_ino} {fields}\n".encode("utf-8", "surrogatepass")
