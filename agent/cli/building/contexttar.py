"""A directory as the tar of a build's context: what .dockerignore leaves, read with this command's own rights."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from agent.errors import Conflict, Refused
from agent.image.layers.tarwriter import encode_member, encode_padding

if TYPE_CHECKING:
    from agent.builder.patterns.patterns import IgnoreRules

CHUNK = 256 << 10
MAX_ENTRIES = 500_000
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ContextTar:
    """Members of a tar for everything below ``root``, a descriptor of the directory ``what``, named below ``prefix``.

    Owners and times are left out: COPY does not look at them. Sockets, FIFOs, devices are not sent; ``warn`` is told.
    """

    def __init__(
        self, root: int, what: str, prefix: str, rules: IgnoreRules | None, warn: Callable[[str], None]
    ) -> None:
        self._root = root
        self._what = what
        self._prefix = prefix
        self._rules = rules
        self._warn = warn
        self._links: dict[tuple[int, int], str] = {}
        self._count = 0

    def chunks(self) -> Iterator[bytes]:
        """All members, in pieces of a useful size. Raises Refused for what cannot be read, Conflict for a change."""
        held = bytearray()
        for piece in self._walk(os.dup(self._root), (), ()):
            held += piece
            if len(held) >= CHUNK:
                yield bytes(held)
                held.clear()
        yield bytes(held)

    def _show(self, path: Sequence[str]) -> str:
        return "/".join((self._what.rstrip("/"), *path))

    def _name(self, path: Sequence[str]) -> bytes:
        return os.fsencode("/".join((self._prefix, *path)))

    def _walk(self, directory: int, path: tuple[str, ...], above: Sequence[bool]) -> Iterator[bytes]:
        """One directory, which is closed at the end, and what is in it."""
        try:
            yield self._header(path, os.fstat(directory), b"5", directory)
            with os.scandir(directory) as found:
                names = sorted(entry.name for entry in found)
            for name in names:
                yield from self._visit(directory, name, (*path, name), above)
        finally:
            os.close(directory)

    def _visit(self, parent: int, name: str, path: tuple[str, ...], above: Sequence[bool]) -> Iterator[bytes]:
        self._count += 1
        if self._count > MAX_ENTRIES:
            raise Refused(
                f"{self._what} holds more than {MAX_ENTRIES} files", hint="leave some out, with .dockerignore"
            )
        rules = self._rules
        matched = rules.match(path, above) if rules else ()
        excluded = rules is not None and rules.excludes(matched)
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if not excluded or (rules is not None and rules.may_return(path)):
                    yield from self._walk(os.open(name, _DIRECTORY, dir_fd=parent), path, matched)
            elif not excluded:
                yield from self._send(parent, name, path, status)
        except OSError as error:
            shown = self._show(path)
            raise Refused(
                f"{shown}: {error.strerror}", reason="ContextUnreadable", hint="leave it out, with .dockerignore"
            ) from None

    def _send(self, parent: int, name: str, path: tuple[str, ...], status: os.stat_result) -> Iterator[bytes]:
        if stat.S_ISLNK(status.st_mode):
            target = os.fsencode(os.readlink(name, dir_fd=parent))
            yield self._header(path, status, b"2", link=target)
        elif stat.S_ISREG(status.st_mode):
            yield from self._send_file(parent, name, path, status)
        else:
            self._warn(f"{self._show(path)} is no file, directory or link and is left out")

    def _send_file(self, parent: int, name: str, path: tuple[str, ...], status: os.stat_result) -> Iterator[bytes]:
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._links:
            yield self._header(path, status, b"1", link=os.fsencode(self._links[key]))
            return
        fd = os.open(name, _READ, dir_fd=parent)
        try:
            status = os.fstat(fd)
            yield self._header(path, status, b"0", fd, size=status.st_size)
            left = status.st_size
            while left and (piece := os.read(fd, min(left, CHUNK))):
                left -= len(piece)
                yield piece
        finally:
            os.close(fd)
        if left:
            raise Conflict(f"{self._show(path)} became shorter while it was sent", hint="build again")
        yield encode_padding(status.st_size)
        self._links[key] = os.fsdecode(self._name(path))

    def _header(
        self,
        path: Sequence[str],
        status: os.stat_result,
        kind: bytes,
        descriptor: int | None = None,
        *,
        link: bytes = b"",
        size: int = 0,
    ) -> bytes:
        xattrs = _read_xattrs(descriptor) if descriptor is not None else ()
        numbers = {b"uid": 0, b"gid": 0, b"size": size, b"mtime": 0}
        name = self._name(path) + (b"/" if kind == b"5" else b"")
        kept = {attribute.encode(): value for attribute, value in xattrs}
        return encode_member(name, kind, stat.S_IMODE(status.st_mode), numbers, link=link, xattrs=kept)


def _read_xattrs(descriptor: int) -> tuple[tuple[str, bytes], ...]:
    """Those that COPY keeps; most files have none at all."""
    try:
        if not os.listxattr(descriptor):
            return ()
    except OSError:
        return ()
    from agent.builder.files.entries import read_xattrs

    return read_xattrs(descriptor)
