"""The files of an image archive that is a tar, read once from end to end.

Law: a name from an archive is looked up in it and nowhere on the host. Every regular file goes to the content store's
place for unfinished blobs as it passes; links are only remembered, devices and the like are nothing (attack rows 37
and 59).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress

from agent.image.archive.files import FileSink, IncomingFile, InvalidArchive, StoredBlob, check_digest
from agent.image.errors import HostileLayer
from agent.image.layers.decompress import decompress
from agent.image.layers.tarreader import TarReader
from agent.image.limits import UnpackLimits
from agent.image.storage.content import ContentStore
from agent.oci.digest import Digest, render_shortened
from agent.oci.document import MAX_DOCUMENT

MAX_MEMBERS = 20_000
MAX_ENTRIES = 60_000
MAX_NAME = 1024
_EXPECTED = "expected is a whole docker-archive or OCI layout, as `holdfast save` and `docker save` write them"


class TarFiles:
    """The files of a tar, packed or not. ``close`` removes what was not taken. ``keep`` is called with each digest
    before it is a blob, so that nobody removes it."""

    def __init__(self, content: ContentStore, limits: UnpackLimits, keep: Callable[[Digest], object]) -> None:
        self._content = content
        self._limits = limits
        self._keep = keep
        self._members: dict[str, IncomingFile] = {}
        self._links: dict[str, str] = {}

    def fill(self, chunks: Generator[bytes, None, None], check: Callable[[], None]) -> None:
        """Read the archive to its end; ``check`` is called now and then, and may raise to end it.

        Raises InvalidArchive for what is no tar, or holds too much, InsufficientStorage.
        """
        with closing(chunks):
            try:
                self._fill(chunks, check)
            except HostileLayer as error:
                raise InvalidArchive(error.message.replace("the layer", "the archive"), hint=_EXPECTED) from error

    def _fill(self, chunks: Iterator[bytes], check: Callable[[], None]) -> None:
        reader = TarReader(decompress(chunks, self._limits))
        for count, entry in enumerate(reader, 1):
            if count > MAX_ENTRIES or len(self._members) > MAX_MEMBERS:
                raise InvalidArchive(f"the archive holds more than {MAX_MEMBERS} files")
            name = _plain_name(entry.name)
            if entry.kind == b"2":
                self._forget(name)
                self._links[name] = entry.link.decode("utf-8", "replace")
            elif entry.kind == b"0" and entry.sparse is None:
                self._forget(name)
                sink = FileSink(self._content, self._limits)
                self._members[name] = sink.fill(iter(reader.data(entry.size)))
                check()
            elif entry.kind != b"5":
                self._forget(name)

    def _forget(self, name: str) -> None:
        """A later entry of a name replaces the earlier one."""
        self._links.pop(name, None)
        earlier = self._members.pop(name, None)
        if earlier is not None:
            earlier.path.unlink()

    def has(self, name: str) -> bool:
        """See ArchiveFiles."""
        return name in self._members

    def follow(self, name: str) -> str:
        """The name that a link in the archive means, one step, when a regular file of the archive is there."""
        target = self._links.get(name)
        if target is None:
            return name
        found = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        return found if found in self._members else name

    def _member(self, name: str) -> IncomingFile:
        member = self._members.get(name)
        if member is None:
            what = "a link" if name in self._links else "not there"
            raise InvalidArchive(f"the archive's file {render_shortened(name)} is {what}")
        return member

    def read(self, name: str) -> bytes:
        """See ArchiveFiles."""
        member = self._member(name)
        if member.size > MAX_DOCUMENT:
            raise InvalidArchive(f"the archive's file {render_shortened(name)} is larger than {MAX_DOCUMENT} bytes")
        try:
            return member.path.read_bytes()
        except FileNotFoundError:
            return self._content.read(member.digest)

    def take(self, name: str, expected: Digest | None = None) -> StoredBlob:
        """See ArchiveFiles."""
        member = self._member(name)
        check_digest(name, member.digest, expected)
        self._keep(member.digest)
        with suppress(FileNotFoundError):  # taken already, under another name or for another image
            self._content.commit(member.path, member.digest)
        return StoredBlob(member.digest, member.size, member.head)

    def close(self) -> None:
        """Remove what was not taken."""
        for member in self._members.values():
            member.path.unlink(missing_ok=True)
        self._members.clear()


def _plain_name(name: bytes) -> str:
    """A name of the archive, as others in it refer to it. Raises InvalidArchive for one that leaves the archive."""
    text = name.decode("utf-8", "replace")
    plain = posixpath.normpath(text)
    if len(name) > MAX_NAME or text.startswith("/") or plain == ".." or plain.startswith("../"):
        raise InvalidArchive(f"the archive holds the unsafe name {render_shortened(text)}")
    return plain
