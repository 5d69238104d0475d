"""Images from archives and layouts: those that are loaded, and those that the desired state names by their path.

Nothing of an archive is believed: blobs are verified by digest, layers by diff ID, and its names are only told, never
given to an image unless somebody says so, for a name moves from whichever image had it (attack row 37).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from agent.errors import NotFound, Stalled, Waiting
from agent.image.archive.bring import LocalBringer
from agent.image.archive.directory import DirectoryFiles
from agent.image.archive.dockerarchive import MANIFEST, FoundImage, parse_name, read_docker_archive
from agent.image.archive.files import ArchiveFiles, InvalidArchive
from agent.image.archive.layout import LAYOUT, read_layout
from agent.image.archive.tar import TarFiles
from agent.image.limits import UnpackLimits
from agent.image.progress import PullTracker
from agent.image.storage.content import CHUNK
from agent.image.storage.records import ImageEntry
from agent.image.stores import Stores
from agent.image.trust.policy_gate import ARCHIVE
from agent.oci.digest import Digest
from agent.oci.platform import compute_platform
from agent.oci.source import LocalImage
from agent.values import frozen

Chunks = Generator[bytes, None, None]
_NEITHER = {None: "neither oci-layout nor manifest.json", True: "no manifest.json", False: "no oci-layout"}


@frozen
class LoadedImage:
    """An image that was loaded, and the names that the archive has for it and that it did not get."""

    entry: ImageEntry
    offered: tuple[str, ...]


@frozen
class Naming:
    """Which names loaded images get: all that the archive gives, or those of ``names``.

    An archive of one image gives it all of ``names``; of several, each gets those that are its own.
    """

    names: tuple[str, ...] = ()
    everything: bool = False

    def choose(self, offered: Sequence[str], *, alone: bool) -> tuple[str, ...]:
        """The names of an image that the archive calls ``offered``."""
        if self.everything:
            return tuple(offered)
        wanted = tuple(parse_name(name) for name in self.names)
        return wanted if alone else tuple(name for name in wanted if name in offered)


class ArchiveLoader:
    """Loads archives into one store. Thread-safe and blocking."""

    def __init__(self, stores: Stores, limits: UnpackLimits) -> None:
        self._stores = stores
        self._limits = limits
        self._host = compute_platform(os.uname().machine)

    def load(self, chunks: Chunks, naming: Naming, tracker: PullTracker) -> tuple[LoadedImage, ...]:
        """Every image of a docker-archive or OCI layout tar, packed or not. Takes ``chunks`` to their end.

        Raises InvalidArchive, Refused, Stalled, NotFound, ImageRejected, InsufficientStorage; images before the one
        that failed stay.
        """
        with ExitStack() as held, self._read_tar(chunks, tracker, held) as files:
            found = _merge(self._list(files, ""))
            if not found:
                raise InvalidArchive("the archive holds no image")
            chosen = [naming.choose(image.names, alone=len(found) == 1) for image in found]
            missing = {parse_name(name) for name in naming.names}.difference(*chosen)
            if missing and not naming.everything:
                raise NotFound(f"the archive has no image called {', '.join(sorted(missing))}", hint=_describe(found))
            for names in chosen:
                for subject in names or (ARCHIVE,):
                    self.check(subject)
            bringer = LocalBringer(self._stores, self._limits, tracker)
            entries = [bringer.bring(image.image, names) for image, names in zip(found, chosen, strict=True)]
            return tuple(
                LoadedImage(entry, tuple(name for name in image.names if name not in entry.names))
                for image, entry in zip(found, entries, strict=True)
            )

    def bring(self, source: LocalImage, tracker: PullTracker) -> ImageEntry:
        """The image in an archive or layout of the host; it gets no name.

        Raises as ``load`` does, and Stalled when nothing is there, or several images and the source does not say which.
        """
        self.check(str(source))
        with ExitStack() as held, self._open(source, tracker, held) as files:
            docker = source.kind == "docker-archive"
            found = _merge(self._list(files, "" if docker else source.name, docker=docker))
            if docker and source.name:
                wanted = parse_name(source.name)
                found = [image for image in found if wanted in image.names] or found
            if len(found) != 1:
                what = f"{source} holds {len(found)} images"
                raise Stalled(what, reason="InvalidArchive", hint=_describe(found) if found else None)
            return LocalBringer(self._stores, self._limits, tracker).bring(found[0].image, ())

    def check(self, subject: str) -> None:
        """Ask the policy for an image that comes from a file. Raises ImageRejected."""
        if self._stores.gate is not None:
            self._stores.gate.check_local(subject)

    def _list(self, files: ArchiveFiles, label: str, *, docker: bool | None = None) -> Iterator[FoundImage]:
        """The images of whichever format is there; an OCI layout comes first, since it has the original manifests."""
        if not docker and files.has(LAYOUT):
            return read_layout(files, self._host, label)
        if docker is not False and files.has(MANIFEST):
            return read_docker_archive(files)
        raise InvalidArchive(f"not an image archive: it holds {_NEITHER[docker]}")

    def _open(
        self, source: LocalImage, tracker: PullTracker, held: ExitStack
    ) -> closing[TarFiles] | closing[DirectoryFiles]:
        path = Path(source.path)
        try:
            if source.kind == "oci" and path.is_dir():
                return closing(DirectoryFiles(path, self._stores.content, self._limits, self._keeper(held)))
            chunks = open_file(path)
        except OSError as error:
            raise missing_source(source, error) from None
        return self._read_tar(chunks, tracker, held)

    def _keeper(self, held: ExitStack) -> Callable[[Digest], object]:
        """Leases what is taken until ``held`` is closed: it may be long until the image is recorded."""
        return lambda digest: held.enter_context(self._stores.leases.held((digest,)))

    def _read_tar(self, chunks: Chunks, tracker: PullTracker, held: ExitStack) -> closing[TarFiles]:
        files = TarFiles(self._stores.content, self._limits, self._keeper(held))
        tracker.report("reading")
        try:
            files.fill(chunks, tracker.check)
        except BaseException:
            files.close()
            raise
        return closing(files)


def missing_source(source: LocalImage, error: OSError) -> Waiting:
    """The error for a source that is not there, or cannot be read: it may come."""
    said = error.strerror or str(error)
    hint = "put it there, or correct the path"
    return Waiting(f"{source} cannot be read: {said}", retry_after=10.0, reason="ImageSourceMissing", hint=hint)


def open_file(path: Path) -> Chunks:
    """The chunks of a regular file of the host. Raises OSError, Stalled when it is none."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Stalled(f"{path} is no regular file", reason="ImageSourceMissing")
    return _read(fd)


def _read(fd: int) -> Chunks:
    with os.fdopen(fd, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _merge(found: Iterator[FoundImage]) -> list[FoundImage]:
    """Each image once, with all the names that it has."""
    merged: dict[Digest, FoundImage] = {}
    for image in found:
        known = merged.get(image.image.digest)
        names = (*known.names, *image.names) if known is not None else image.names
        merged[image.image.digest] = replace(image, names=tuple(dict.fromkeys(names)))
    return list(merged.values())


def _describe(found: Sequence[FoundImage]) -> str:
    labels = [name for image in found for name in (image.names or (image.label or image.image.digest[:19],))]
    return f"it holds {', '.join(labels)[:500]}"
