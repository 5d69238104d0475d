"""What COPY copies: files beneath one root, found, hashed and read by descriptor.

Law: nothing outside of the root is reached, whoever lays links out or swaps a file meanwhile: paths are resolved as if
the root were ``/``, and what was found is opened again without following any link.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from agent.builder.faults import ContextChanged
from agent.builder.files.entries import Entry, Source, read_xattrs
from agent.builder.files.scan import ALL, MISSING, PLAIN, STRICT, Keeps, Scan, Wanted
from agent.builder.files.search import Search
from agent.builder.files.stamps import FileFacts, StampCache
from agent.builder.patterns.globclasses import BadPattern
from agent.builder.patterns.patterns import IgnoreRules, has_wildcard
from agent.errors import NotFound, Refused
from agent.kernel.openat import openat2
from agent.oci.digest import render_shortened
from agent.runtime.imageview import open_inside
from agent.store.atomic import write_all

MAX_ENTRIES = 500_000
MAX_BYTES = 64 << 30
CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


class FileTree:
    """Files below ``root``, a descriptor that stays the caller's. ``check`` is called often and may raise."""

    def __init__(
        self,
        root: int,
        what: str,
        *,
        rules: IgnoreRules | None = None,
        stamps: StampCache | None = None,
        check: Callable[[], None] = lambda: None,
        keeps: Keeps = PLAIN,
    ) -> None:
        self.root = root
        self.what = what
        self.keeps = keeps
        self.rules = rules or IgnoreRules()
        self.way_out = "with .dockerignore" if rules is not None else "by --exclude of COPY, or remove it there before"
        self._stamps = stamps
        self._check = check
        self._top = _read_location(root).rstrip("/")
        self._count = 0
        self._bytes = 0

    def find(self, pattern: str, wanted: Wanted = ALL) -> tuple[Source, ...]:
        """Everything that a source of COPY names. Raises NotFound, Refused, ContextChanged."""
        base, pattern_below = _split_pivot(pattern) if wanted.parents else ("", pattern)
        clean = posixpath.normpath("/" + posixpath.join(base, pattern_below)).lstrip("/")
        if not has_wildcard(clean):
            found = [clean]
        else:
            try:
                found = list(Search(self, deep=wanted.parents).expand(clean.split("/")))
            except BadPattern as error:
                raise Refused(f"the source {error}", reason="InvalidPattern") from None
        depth = len([part for part in base.split("/") if part])
        sources = [self._take(path, pattern, wanted, depth) for path in dict.fromkeys(found)]
        kept = tuple(source for source in sources if source.entries)
        if not kept:
            raise self._missing(pattern)
        return kept

    def _take(self, path: str, pattern: str, wanted: Wanted, depth: int) -> Source:
        if not wanted.parents:
            return self._scan(path, pattern, wanted)
        parts = path.split("/") if path else []
        return self._scan_below("/".join(parts[:depth]), tuple(parts[depth:]), pattern, wanted)

    def _missing(self, pattern: str) -> NotFound:
        hint = "its .dockerignore counts too" if self.rules else None
        shown = render_shortened(pattern, 200)
        return NotFound(f"{shown} is not in {self.what}", reason="SourceNotFound", hint=hint)

    def matched(self, path: str) -> tuple[bool, ...]:
        """Which rules apply to a path or to a directory above it."""
        matched: tuple[bool, ...] = ()
        parts = path.split("/") if path else []
        for end in range(1, len(parts) + 1):
            matched = self.rules.match(parts[:end], matched)
        return matched

    def is_ignored(self, path: str) -> bool:
        """Whether .dockerignore leaves a path out."""
        return bool(self.rules) and bool(path) and self.rules.excludes(self.matched(path))

    def _scan(self, path: str, pattern: str, wanted: Wanted) -> Source:
        try:
            real = self._resolve(path)
            found = openat2(self.root, real or ".", os.O_PATH, STRICT)
        except OSError as error:
            if error.errno in MISSING:
                raise self._missing(pattern) from None
            raise
        try:
            scan = Scan(self, real, wanted)
            scan.top(found)
        finally:
            os.close(found)
        ignored = self.is_ignored(real)
        if (ignored and len(scan.entries) < 2) or (not scan.entries and not wanted.excludes):
            raise self._missing(pattern)
        return Source(real, posixpath.basename(path), tuple(scan.entries))

    def _scan_below(self, base: str, rest: tuple[str, ...], pattern: str, wanted: Wanted) -> Source:
        """What is at ``rest`` below ``base``, with the directories between them as a part of it."""
        if not rest:
            return self._scan(base, pattern, replace(wanted, parents=False))
        try:
            real = self._resolve(base)
            between = [self._between(real, rest[:end]) for end in range(len(rest))]
            path = posixpath.join(real, *rest)
            found = openat2(self.root, path, os.O_PATH | os.O_NOFOLLOW, STRICT)
        except OSError as error:
            if error.errno in MISSING:
                raise self._missing(pattern) from None
            raise
        try:
            scan = Scan(self, path, replace(wanted, above=rest))
            scan.top(found)
        finally:
            os.close(found)
        if not scan.entries and not wanted.excludes:
            raise self._missing(pattern)
        entries = (*between, *scan.entries) if scan.entries else ()
        return Source(real, posixpath.basename(base), entries)

    def _between(self, base: str, parts: tuple[str, ...]) -> Entry:
        """A directory above a source, which with --parents is copied too; a link cannot stand for it."""
        path = posixpath.join(base, *parts)
        try:
            fd = openat2(self.root, path or ".", os.O_PATH | os.O_DIRECTORY, STRICT)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EXDEV):
                raise
            raise Refused(
                f"{render_shortened(path)} in {self.what} is a link, and --parents would copy it as a directory",
                reason="UnsupportedFile",
                hint="name the directory that it leads to",
            ) from None
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        entry = Entry("/".join(parts), status.st_mode)
        if self.keeps.owners:
            entry = replace(entry, uid=status.st_uid, gid=status.st_gid)
        return entry

    def _resolve(self, path: str) -> str:
        """Where a path leads, its links followed as if the root were ``/``."""
        found = open_inside(self.root, path, os.O_PATH)
        try:
            real = _read_location(found)
        finally:
            os.close(found)
        if real.rstrip("/") == self._top:
            return ""
        if not real.startswith(self._top + "/"):
            raise ContextChanged(f"{render_shortened(path)} moved out of {self.what}")
        return real[len(self._top) + 1 :]

    def count(self, size: int = 0) -> None:
        """Count an entry. Raises Refused beyond what one layer may hold."""
        self._count += 1
        self._bytes += size
        if self._count > MAX_ENTRIES or self._bytes > MAX_BYTES:
            raise Refused(
                f"{self.what} holds more than {MAX_ENTRIES} files or {MAX_BYTES >> 30} GiB to copy",
                reason="ContextTooLarge",
                hint=f"leave out what the image does not need, {self.way_out}",
            )
        self._check()

    def facts(self, parent: int, name: str, status: os.stat_result) -> FileFacts:
        """A regular file's digest, read anew only when its stamp is not known."""
        known = self._stamps.find(status) if self._stamps else None
        if known is not None:
            return known
        fd = os.open(name, _READ, dir_fd=parent)
        try:
            before = os.fstat(fd)
            running = hashlib.sha256()
            for piece in self._read(fd):
                running.update(piece)
            facts = FileFacts(running.digest(), read_xattrs(fd))
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if _stamp(before) != _stamp(status) or _stamp(after) != _stamp(status):
            raise ContextChanged(f"{render_shortened(name)} in {self.what} changed while it was read")
        if self._stamps:
            self._stamps.put(after, facts)
        return facts

    def _read(self, fd: int) -> Iterator[bytes]:
        while chunk := os.read(fd, CHUNK):
            yield chunk
            self._check()

    def open_file(self, source: Source, entry: Entry) -> int:
        """Open a regular file that a scan found. Raises ContextChanged when it is something else by now."""
        path = posixpath.join(source.path, entry.path) if entry.path else source.path
        try:
            fd = openat2(self.root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, STRICT)
        except OSError as error:
            raise ContextChanged(
                f"{render_shortened(path)} in {self.what} changed while it was copied: {error.strerror}"
            ) from None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            os.close(fd)
            raise ContextChanged(f"{render_shortened(path)} in {self.what} changed while it was copied")
        return fd

    def copy_file(self, source: Source, entry: Entry, target: int) -> None:
        """Write a file's bytes to a descriptor. Raises ContextChanged when they are not those that were hashed."""
        fd = self.open_file(source, entry)
        running = hashlib.sha256()
        try:
            for piece in self._read(fd):
                running.update(piece)
                _write(target, piece)
        finally:
            os.close(fd)
        os.ftruncate(target, os.lseek(target, 0, os.SEEK_CUR))
        if running.digest() != entry.content:
            shown = render_shortened(entry.path or source.path)
            raise ContextChanged(f"{shown} in {self.what} changed while it was copied")


def _split_pivot(pattern: str) -> tuple[str, str]:
    """With --parents, what stands before ``/./`` is not a part of the copy's path."""
    base, pivot, rest = pattern.partition("/./")
    return (base.lstrip("/"), rest) if pivot and base not in ("", ".") else ("", pattern)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _write(target: int, piece: bytes) -> None:
    if not piece.strip(b"\0"):
        os.lseek(target, len(piece), os.SEEK_CUR)
        return
    write_all(target, piece)


def _read_location(fd: int) -> str:
    """Where the kernel says a descriptor is: on a detached mount, counted from its root."""
    return str(Path(f"/proc/self/fd/{fd}").readlink())
