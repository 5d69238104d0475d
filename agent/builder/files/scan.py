"""One source of a COPY, walked by descriptor: no link is followed, nothing but files, directories and links kept."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from dataclasses import field, replace
from typing import Protocol

from agent.builder.faults import ContextChanged
from agent.builder.files.entries import Entry
from agent.builder.files.stamps import FileFacts
from agent.builder.patterns.patterns import IgnoreRules
from agent.errors import Refused
from agent.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from agent.oci.digest import render_shortened
from agent.values import frozen

MAX_DEPTH = 120
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
STRICT = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS


@frozen
class Keeps:
    """What copies take over from their originals beside the mode: else they are root's, and as old as the image."""

    owners: bool = False
    times: bool = False


PLAIN = Keeps()


class ScannedTree(Protocol):
    """What a scan needs of its tree (see ``tree.FileTree``)."""

    root: int
    what: str
    rules: IgnoreRules
    keeps: Keeps
    way_out: str

    def matched(self, path: str) -> tuple[bool, ...]:
        """Which rules apply to a path."""

    def is_ignored(self, path: str) -> bool:
        """Whether a path is left out."""

    def count(self, size: int = 0) -> None:
        """Count an entry."""

    def facts(self, parent: int, name: str, status: os.stat_result) -> FileFacts:
        """The digest of a regular file."""


@frozen
class Wanted:
    """What of a source is meant: not what ``excludes`` matches, and with ``parents`` together with the directories
    above it, ``above`` of which are named in the copy."""

    excludes: IgnoreRules = field(default_factory=IgnoreRules)
    parents: bool = False
    above: tuple[str, ...] = ()


ALL = Wanted()
Matched = tuple[tuple[bool, ...], tuple[bool, ...]]
"""Which rules of the tree, and which excludes, apply to a path or what is above it."""


class Scan:
    """One source's entries, depth first and sorted, parents before their children."""

    def __init__(self, tree: ScannedTree, path: str, wanted: Wanted) -> None:
        self._tree = tree
        self._path = path
        self._wanted = wanted
        self._prefix = "/".join(wanted.above)
        self._twins: dict[tuple[int, int], str] = {}
        self.entries: list[Entry] = []

    def top(self, found: int) -> None:
        """Scan what the descriptor refers to."""
        status = os.fstat(found)
        if stat.S_ISDIR(status.st_mode):
            fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._directory(fd, status, self._prefix, (self._tree.matched(self._path), self._match_above()))
            finally:
                os.close(fd)
            return
        head, _, name = self._path.rpartition("/")
        parent = openat2(self._tree.root, head or ".", os.O_RDONLY | os.O_DIRECTORY, STRICT)
        try:
            if not (self._tree.is_ignored(self._path) or self._is_excluded(name)):
                self._other(parent, name, status, self._prefix)
        finally:
            os.close(parent)

    def _match_above(self) -> tuple[bool, ...]:
        matched: tuple[bool, ...] = ()
        for end in range(1, len(self._wanted.above) + 1):
            matched = self._wanted.excludes.match(self._wanted.above[:end], matched)
        return matched

    def _is_excluded(self, name: str) -> bool:
        """Whether a source that is no directory is left out by its name, or by its path when that is copied."""
        excludes = self._wanted.excludes
        return bool(excludes) and excludes.excludes(self._match_above() if self._prefix else excludes.match([name]))

    def _directory(self, fd: int, status: os.stat_result, path: str, matched: Matched) -> None:
        if path.count("/") >= MAX_DEPTH:
            raise Refused(f"{self._tree.what} nests directories deeper than {MAX_DEPTH}", reason="ContextTooLarge")
        self._tree.count()
        self.entries.append(self._dress(Entry(path, status.st_mode), status))
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

    def _filter(self, path: str, above: Matched) -> tuple[Matched, bool, bool]:
        """Which rules apply to a path, whether it is left out, and whether something below it may still come back."""
        rules, excludes = self._tree.rules, self._wanted.excludes
        matched, left_out, returns = above, False, True
        if rules:
            inner = path.removeprefix(self._prefix).lstrip("/")
            whole = posixpath.join(self._path, inner).split("/")
            matched = (rules.match(whole, above[0]), matched[1])
            if rules.excludes(matched[0]):
                left_out, returns = True, rules.may_return(whole)
        if excludes:
            parts = path.split("/")
            matched = (matched[0], excludes.match(parts, above[1]))
            if excludes.excludes(matched[1]):
                left_out, returns = True, returns and excludes.may_return(parts)
        return matched, left_out, returns

    def _child(self, parent: int, item: os.DirEntry[str], path: str, above: Matched) -> None:
        matched, excluded, returns = self._filter(path, above)
        if excluded and not (returns and item.is_dir(follow_symlinks=False)):
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

    def _dress(self, entry: Entry, status: os.stat_result) -> Entry:
        """With its owner and time, where the tree keeps them."""
        if self._tree.keeps.owners:
            entry = replace(entry, uid=status.st_uid, gid=status.st_gid)
        return replace(entry, mtime=status.st_mtime_ns) if self._tree.keeps.times else entry

    def _other(self, parent: int, name: str, status: os.stat_result, path: str) -> None:
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            self._tree.count()
            target = os.fsencode(os.readlink(name, dir_fd=parent))
            self.entries.append(self._dress(Entry(path, mode, target), status))
        elif stat.S_ISREG(mode):
            self._tree.count(status.st_size)
            twin = None
            if status.st_nlink > 1:
                twin = self._twins.setdefault((status.st_dev, status.st_ino), path)
            facts = self._tree.facts(parent, name, status)
            twin = twin if twin != path else None
            entry = Entry(path, mode, facts.digest, status.st_size, facts.xattrs, twin)
            self.entries.append(self._dress(entry, status))
        else:
            kind = "FIFO" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
            raise Refused(
                f"{render_shortened(path or name)} in {self._tree.what} is a {kind}, which is not copied",
                reason="UnsupportedFile",
                hint=f"leave it out {self._tree.way_out}",
            )
