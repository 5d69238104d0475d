"""One source of a COPY, walked by descriptor: no link is followed, nothing but files, directories and links kept."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import Protocol

from agent.builder.entries import Entry
from agent.builder.faults import ContextChanged
from agent.builder.patterns import IgnoreRules
from agent.builder.stamps import FileFacts
from agent.errors import Refused
from agent.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from agent.oci.digest import render_shortened

MAX_DEPTH = 120
STRICT = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS


class ScannedTree(Protocol):
    """What a scan needs of its tree (see ``tree.FileTree``)."""

    root: int
    what: str
    rules: IgnoreRules

    def matched(self, path: str) -> tuple[bool, ...]:
        """Which rules apply to a path."""

    def is_ignored(self, path: str) -> bool:
        """Whether a path is left out."""

    def count(self, size: int = 0) -> None:
        """Count an entry."""

    def facts(self, parent: int, name: str, status: os.stat_result) -> FileFacts:
        """The digest of a regular file."""


class Scan:
    """One source's entries, depth first and sorted, parents before their children."""

    def __init__(self, tree: ScannedTree, path: str) -> None:
        self._tree = tree
        self._path = path
        self.rules = tree.rules
        self._twins: dict[tuple[int, int], str] = {}
        self.entries: list[Entry] = []

    def top(self, found: int) -> None:
        """Scan what the descriptor refers to."""
        status = os.fstat(found)
        if stat.S_ISDIR(status.st_mode):
            fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._directory(fd, status, "", self._tree.matched(self._path))
            finally:
                os.close(fd)
            return
        head, _, name = self._path.rpartition("/")
        parent = openat2(self._tree.root, head or ".", os.O_RDONLY | os.O_DIRECTORY, STRICT)
        try:
            if not self._tree.is_ignored(self._path):
                self._other(parent, name, status, "")
        finally:
            os.close(parent)

    def _directory(self, fd: int, status: os.stat_result, path: str, matched: tuple[bool, ...]) -> None:
        if path.count("/") >= MAX_DEPTH:
            raise Refused(f"{self._tree.what} nests directories deeper than {MAX_DEPTH}", reason="ContextTooLarge")
        self._tree.count()
        self.entries.append(Entry(path, status.st_mode))
        with os.scandir(fd) as listing:
            found = sorted(listing, key=lambda item: item.name)
        for item in found:
            try:
                self._child(fd, item, f"{path}/{item.name}" if path else item.name, matched)
            except (FileNotFoundError, NotADirectoryError):
                raise ContextChanged(f"{render_shortened(item.name)} in {self._tree.what} changed meanwhile") from None
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                raise ContextChanged(f"{render_shortened(item.name)} in {self._tree.what} became a link") from None

    def _child(self, parent: int, item: os.DirEntry[str], path: str, above: tuple[bool, ...]) -> None:
        matched, excluded = above, False
        if self.rules:
            whole = posixpath.join(self._path, path).split("/")
            matched = self.rules.match(whole, above)
            excluded = self.rules.excludes(matched)
            if excluded and not (item.is_dir(follow_symlinks=False) and self.rules.may_return(whole)):
                return
        status = item.stat(follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            self._other(parent, item.name, status, path)
            return
        fd = os.open(item.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            before = len(self.entries)
            self._directory(fd, os.fstat(fd), path, matched)
        finally:
            os.close(fd)
        if excluded and len(self.entries) == before + 1:
            self.entries.pop()

    def _other(self, parent: int, name: str, status: os.stat_result, path: str) -> None:
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            self._tree.count()
            self.entries.append(Entry(path, mode, os.fsencode(os.readlink(name, dir_fd=parent))))
        elif stat.S_ISREG(mode):
            self._tree.count(status.st_size)
            twin = None
            if status.st_nlink > 1:
                twin = self._twins.setdefault((status.st_dev, status.st_ino), path)
            facts = self._tree.facts(parent, name, status)
            twin = twin if twin != path else None
            self.entries.append(Entry(path, mode, facts.digest, status.st_size, facts.xattrs, twin))
        else:
            kind = "FIFO" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
            raise Refused(
                f"{render_shortened(path or name)} in {self._tree.what} is a {kind}, which is not copied",
                reason="UnsupportedFile",
                hint="leave it out with .dockerignore",
            )
