"""The files of an image archive, by name: of a tar that is read once from end to end, or of a directory.

Law: a name from an archive is looked up here and nowhere on the host. Of a tar every regular file goes to the content
store's place for unfinished blobs as it passes; links are only remembered, devices and the like are nothing (attack
rows 37 and 59). In a directory names are opened beneath it, without following any link.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol

from agent.errors import Refused
from agent.image.content import CHUNK, ContentStore
from agent.image.decompress import decompress
from agent.image.errors import DigestMismatch, HostileLayer
from agent.image.limits import UnpackLimits
from agent.image.space import SPACE_CHECK, check_space
from agent.image.tarreader import TarReader
from agent.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from agent.oci.digest import Digest, digest_of_hex, render_shortened
from agent.oci.document import MAX_DOCUMENT
from agent.store.atomic import write_all
from agent.values import frozen

MAX_MEMBERS = 20_000
MAX_ENTRIES = 60_000
MAX_NAME = 1024
_EXPECTED = "expected is a whole docker-archive or OCI layout, as `holdfast save` and `docker save` write them"


class InvalidArchive(Refused):
    """An image archive that is not what its format says."""

    reason = "InvalidArchive"


@frozen
class StoredBlob:
    """A file that is a blob of the content store now. ``head`` is its first bytes."""

    digest: Digest
    size: int
    head: bytes


class ArchiveFiles(Protocol):
    """Looks up and takes files of one archive."""

    def has(self, name: str) -> bool:
        """Whether a regular file is there."""

    def read(self, name: str) -> bytes:
        """A small file. Raises InvalidArchive when it is missing, no regular file, or over 4 MiB."""

    def take(self, name: str, expected: Digest | None = None) -> StoredBlob:
        """Make the file a blob. Raises InvalidArchive, DigestMismatch when it is not ``expected``."""


@frozen
class _Member:
    path: Path
    digest: Digest
    size: int
    head: bytes


class _Sink:
    """One file on its way into the content store: written, hashed, and its size kept in bounds."""

    def __init__(self, content: ContentStore, limits: UnpackLimits) -> None:
        self.path = content.new_ingest()
        self._root = content.root
        self._limits = limits
        self._hash = hashlib.sha256()
        self._unchecked = SPACE_CHECK
        self.size = 0
        self.head = b""
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def fill(self, pieces: Iterator[bytes | memoryview]) -> _Member:
        """Write everything; on an error nothing is left."""
        try:
            for piece in pieces:
                self._write(piece)
        except BaseException:
            self.path.unlink()
            raise
        finally:
            os.close(self._fd)
        return _Member(self.path, digest_of_hex(self._hash.hexdigest()), self.size, self.head)

    def _write(self, piece: bytes | memoryview) -> None:
        self._unchecked += len(piece)
        if self._unchecked >= SPACE_CHECK:
            self._unchecked = 0
            check_space(self._root, len(piece), self._limits)
        if len(self.head) < 4:
            self.head += bytes(piece[:4])
        self._hash.update(piece)
        self.size += len(piece)
        write_all(self._fd, piece)


class TarFiles:
    """The files of a tar, packed or not. ``close`` removes what was not taken. ``keep`` is called with each digest
    before it is a blob, so that nobody removes it."""

    def __init__(self, content: ContentStore, limits: UnpackLimits, keep: Callable[[Digest], object]) -> None:
        self._content = content
        self._limits = limits
        self._keep = keep
        self._members: dict[str, _Member] = {}
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
                sink = _Sink(self._content, self._limits)
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

    def _member(self, name: str) -> _Member:
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
        _check_digest(name, member.digest, expected)
        self._keep(member.digest)
        with suppress(FileNotFoundError):  # taken already, under another name or for another image
            self._content.commit(member.path, member.digest)
        return StoredBlob(member.digest, member.size, member.head)

    def close(self) -> None:
        """Remove what was not taken."""
        for member in self._members.values():
            member.path.unlink(missing_ok=True)
        self._members.clear()


class DirectoryFiles:
    """The files beneath a directory of the host; ``keep`` as for TarFiles. Raises OSError."""

    def __init__(
        self, path: Path, content: ContentStore, limits: UnpackLimits, keep: Callable[[Digest], object]
    ) -> None:
        self._content = content
        self._limits = limits
        self._keep = keep
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _open(self, name: str) -> int:
        try:
            fd = openat2(self._root, name, os.O_RDONLY | os.O_NONBLOCK, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except OSError as error:
            raise InvalidArchive(f"the layout's file {render_shortened(name)}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidArchive(f"the layout's file {render_shortened(name)} is no regular file")
        return fd

    def has(self, name: str) -> bool:
        """See ArchiveFiles."""
        try:
            os.close(self._open(name))
        except InvalidArchive:
            return False
        return True

    def read(self, name: str) -> bytes:
        """See ArchiveFiles."""
        with os.fdopen(self._open(name), "rb") as file:
            data = file.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            raise InvalidArchive(f"the layout's file {render_shortened(name)} is larger than {MAX_DOCUMENT} bytes")
        return data

    def take(self, name: str, expected: Digest | None = None) -> StoredBlob:
        """See ArchiveFiles."""
        if expected is not None:
            self._keep(expected)
        present = self._content.size(expected) if expected is not None else None
        if expected is not None and present is not None:
            return StoredBlob(expected, present, b"")
        fd = self._open(name)
        try:
            size = _size(fd)
            check_space(self._content.root, size, self._limits)
            member = _Sink(self._content, self._limits).fill(_read_up_to(fd, size))
        finally:
            os.close(fd)
        try:
            _check_digest(name, member.digest, expected)
            self._keep(member.digest)
            self._content.commit(member.path, member.digest)
        finally:
            member.path.unlink(missing_ok=True)
        return StoredBlob(member.digest, member.size, member.head)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._root)


def _size(fd: int) -> int:
    return os.fstat(fd).st_size


def _read_up_to(fd: int, size: int) -> Iterator[bytes]:
    while size and (chunk := os.read(fd, min(CHUNK, size))):
        size -= len(chunk)
        yield chunk


def _check_digest(name: str, actual: Digest, expected: Digest | None) -> None:
    if expected is not None and actual != expected:
        raise DigestMismatch(f"the archive's file {render_shortened(name)} has other content: {actual}")


def _plain_name(name: bytes) -> str:
    """A name of the archive, as others in it refer to it. Raises InvalidArchive for one that leaves the archive."""
    text = name.decode("utf-8", "replace")
    plain = posixpath.normpath(text)
    if len(name) > MAX_NAME or text.startswith("/") or plain == ".." or plain.startswith("../"):
        raise InvalidArchive(f"the archive holds the unsafe name {render_shortened(text)}")
    return plain
