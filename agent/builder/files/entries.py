"""What a scan finds: files, directories and links as values, and the digest of all of them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from agent.values import frozen


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or link; ``path`` is relative to its source, "" for the source itself.

    ``content`` is a file's SHA-256 or a link's target; ``twin`` the path of an earlier hard link to the same file.
    ``mtime`` is in nanoseconds, None for that of the build.
    """

    path: str
    mode: int
    content: bytes = b""
    size: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    twin: str | None = None
    uid: int = 0
    gid: int = 0
    mtime: int | None = None


@frozen
class Source:
    """What one source of a COPY is: where it lies in its tree, the name it was asked by, and all it holds."""

    path: str
    name: str
    entries: tuple[Entry, ...]

    @property
    def is_directory(self) -> bool:
        """Whether its content is copied, and not itself."""
        return stat.S_ISDIR(self.entries[0].mode)


def read_xattrs(fd: int) -> tuple[tuple[str, bytes], ...]:
    """The attributes of a file that belong to its content: file capabilities and ``user.``."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return ()
    kept = sorted(name for name in names if name.startswith("user.") or name == "security.capability")
    return tuple((name, os.getxattr(fd, name)) for name in kept if not name.startswith("user.overlay."))


def compute_content(sources: Sequence[Source]) -> str:
    """The digest of everything that is copied: names, kinds, modes, bytes, links, owners, and times that are kept."""
    running = hashlib.sha256()
    for source in sources:
        _feed(running, b"source", os.fsencode(source.name))
        for entry in source.entries:
            twin = b"" if entry.twin is None else b"=" + os.fsencode(entry.twin)
            kept = b"%o %d %d:%d" % (entry.mode, entry.size, entry.uid, entry.gid)
            fields = [os.fsencode(entry.path), kept, entry.content, twin]
            fields += [] if entry.mtime is None else [b"@%d" % entry.mtime]
            fields += [piece for name, value in entry.xattrs for piece in (name.encode(), value)]
            _feed(running, *fields)
    return running.hexdigest()


def _feed(running: hashlib._Hash, *fields: bytes) -> None:
    running.update(b"%d;" % len(fields) + b"".join(b"%d:%b" % (len(field), field) for field in fields))
