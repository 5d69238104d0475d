"""The inodes of a layer image while it is made: a few columns of numbers, for thousands of objects take ten times that.

What few inodes have (children, extended attributes, chunks) is kept beside them.
"""

from __future__ import annotations

import stat
from array import array

from agent.image.erofs import ondisk

ROOT = 0


class Inodes:
    """All inodes by their index, in the order in which they came. ``places`` and ``sizes`` are as in ondisk.Inode; what
    replaces another gets an index of its own."""

    def __init__(self) -> None:
        self._modes = array("H")
        self._uids = array("I")
        self._gids = array("I")
        self._seconds = array("q")
        self._nanoseconds = array("I")
        self.sizes = array("Q")
        self.places = array("I")
        self.xattrs: dict[int, dict[str, bytes]] = {}
        self.chunks: dict[int, array[int]] = {}
        self._children: dict[int, dict[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._modes)

    def add(self, mode: int, uid: int = 0, gid: int = 0, mtime: int = 0) -> int:
        """The index of a new inode; ``mtime`` is nanoseconds since the epoch."""
        self._modes.append(mode)
        self._uids.append(uid)
        self._gids.append(gid)
        seconds, nanoseconds = divmod(mtime, 1_000_000_000)
        self._seconds.append(seconds)
        self._nanoseconds.append(nanoseconds)
        self.sizes.append(0)
        self.places.append(0)
        return len(self._modes) - 1

    def add_directory(self) -> int:
        """A directory of which nothing is said yet."""
        return self.add(stat.S_IFDIR | 0o755)

    def describe(self, node: int, mode: int, uid: int, gid: int, mtime: int) -> None:
        """Say something else of an inode; it stays of its type."""
        self._modes[node] = stat.S_IFMT(self._modes[node]) | mode
        self._uids[node], self._gids[node] = uid, gid
        self._seconds[node], self._nanoseconds[node] = divmod(mtime, 1_000_000_000)

    def mode(self, node: int) -> int:
        """Type and permissions."""
        return self._modes[node]

    def is_directory(self, node: int) -> bool:
        """Whether it can have children."""
        return stat.S_ISDIR(self._modes[node])

    def is_whiteout(self, node: int) -> bool:
        """Whether this is overlayfs' mark for "gone from here down": a character device 0:0."""
        return stat.S_ISCHR(self._modes[node]) and self.places[node] == 0

    def children(self, node: int) -> dict[bytes, int]:
        """What is in a directory; not to be changed but by ``link``."""
        return self._children.get(node, _NOTHING)

    def link(self, parent: int, name: bytes, node: int) -> None:
        """Give an inode a name, and take it from another one."""
        self._children.setdefault(parent, {})[name] = node

    def set_xattr(self, node: int, name: str, value: bytes) -> None:
        """Add an extended attribute, or replace it."""
        self.xattrs.setdefault(node, {})[name] = value

    def render(self, node: int, links: int) -> ondisk.Inode:
        """An inode as it is to be written."""
        mtime = self._seconds[node] * 1_000_000_000 + self._nanoseconds[node]
        return ondisk.Inode(
            *(self._modes[node], self._uids[node], self._gids[node], mtime, self.sizes[node], self.places[node], links),
            chunked=node in self.chunks,
        )


_NOTHING: dict[bytes, int] = {}
