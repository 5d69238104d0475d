"""What a COPY or ADD copies: files of a tree, of the Dockerfile itself, or of the network; each found once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from agent.builder.cache import compute_key
from agent.builder.dockerfile.steps import CopyStep, InlineFile, RemoteFile
from agent.builder.files.entries import Source, compute_content
from agent.builder.files.scan import ALL, PLAIN, Keeps, Wanted
from agent.builder.files.tree import FileTree
from agent.builder.remote import Downloader, compute_name
from agent.errors import Refused
from agent.values import frozen

_INLINE_MODE = 0o644


@frozen
class Batch:
    """Sources that lie in one tree; ``unpack`` those that are archives."""

    tree: FileTree
    sources: tuple[Source, ...]
    unpack: bool = False


class Supply(Protocol):
    """Something to copy."""

    @property
    def content(self) -> str:
        """The digest of all of it."""

    def opened(self, directory: Path) -> AbstractContextManager[Batch]:
        """The files themselves; ``directory`` is empty, and theirs to use."""


class Files:
    """What one COPY reads of a tree: searched and hashed when first needed, or ``known`` from an earlier build."""

    def __init__(
        self,
        tree: FileTree,
        patterns: Sequence[str],
        known: str | None = None,
        wanted: Wanted = ALL,
        *,
        unpack: bool = False,
    ) -> None:
        self._tree = tree
        self._patterns = patterns
        self._wanted = wanted
        self._unpack = unpack
        self._found: tuple[Source, ...] | None = None
        self._content = known

    @property
    def sources(self) -> tuple[Source, ...]:
        """All sources. Raises NotFound, Refused, ContextChanged."""
        if self._found is None:
            self._found = tuple(
                source for pattern in self._patterns for source in self._tree.find(pattern, self._wanted)
            )
        return self._found

    @property
    def content(self) -> str:
        """See Supply."""
        if self._content is None:
            self._content = compute_content(self.sources)
        return self._content

    @contextmanager
    def opened(self, directory: Path) -> Iterator[Batch]:
        """See Supply."""
        yield Batch(self._tree, self.sources, self._unpack)


class InlineFiles:
    """Here-documents."""

    def __init__(self, files: Sequence[InlineFile]) -> None:
        self._files = files

    @property
    def content(self) -> str:
        """See Supply."""
        return compute_key(inline=[[one.name, hashlib.sha256(one.content).hexdigest()] for one in self._files])

    @contextmanager
    def opened(self, directory: Path) -> Iterator[Batch]:
        """See Supply."""
        for one in self._files:
            path = directory / one.name
            path.write_bytes(one.content)
            path.chmod(_INLINE_MODE)
        with tree_of(directory, "the Dockerfile", PLAIN) as tree:
            names = dict.fromkeys(one.name for one in self._files)
            yield Batch(tree, tuple(find_literally(tree, name) for name in names))


class RemoteFiles:
    """Files to download: at once when only that can tell what they are, else when they are needed."""

    def __init__(self, step: CopyStep, spool: Path, downloader: Downloader) -> None:
        self._files = step.remote
        self._named = step.destination.endswith("/")
        self._spool = spool
        self._downloader = downloader
        self._unpack = step.options.unpack is True
        self._digests: dict[str, str] = {}

    @property
    def content(self) -> str:
        """See Supply."""
        known = [[compute_key(name=one.url), one.checksum or self._fetch(one)] for one in self._files]
        return compute_key(remote=known, unpack=self._unpack)

    def _fetch(self, file: RemoteFile) -> str:
        if file.url not in self._digests:
            path = self._path(file)
            found = self._downloader.fetch(file.url, path)
            digest = f"sha256:{found.digest}"
            if file.checksum and digest != file.checksum:
                path.unlink()
                raise Refused(
                    f"{file.url[:200]} is {digest}, and --checksum says {file.checksum}", reason="DigestMismatch"
                )
            self._digests[file.url] = digest
        return self._digests[file.url]

    def _path(self, file: RemoteFile) -> Path:
        directory = self._spool / str([one.url for one in self._files].index(file.url))
        directory.mkdir(exist_ok=True)
        return directory / self._name(file)

    def _name(self, file: RemoteFile) -> str:
        """By the URL, which counts only when the destination does not say it."""
        try:
            return compute_name(file.url)
        except Refused:
            if self._named:
                raise
            return "download"

    @contextmanager
    def opened(self, directory: Path) -> Iterator[Batch]:
        """See Supply."""
        for one in self._files:
            self._fetch(one)
        with tree_of(self._spool, "what was downloaded", Keeps(times=True)) as tree:
            paths = dict.fromkeys(str(self._path(one).relative_to(self._spool)) for one in self._files)
            yield Batch(tree, tuple(find_literally(tree, path) for path in paths), self._unpack)


def escape_pattern(path: str) -> str:
    """A pattern that matches this path only."""
    return "".join(f"\\{one}" if one in "*?[\\" else one for one in path)


def find_literally(tree: FileTree, path: str) -> Source:
    """The file at a path that holds no patterns, whatever its name looks like."""
    (found,) = tree.find(escape_pattern(path))
    return found


@contextmanager
def tree_of(directory: Path, what: str, keeps: Keeps) -> Iterator[FileTree]:
    """A directory of our own as a tree to copy from."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield FileTree(fd, what, keeps=keeps)
    finally:
        os.close(fd)
