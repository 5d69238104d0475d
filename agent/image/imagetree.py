"""The tree of a layer image while it is made: in memory, by the same rules as that of agent.image.rooted on disk."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from agent.image.errors import HostileLayer
from agent.image.rooted import MAX_DEPTH, MAX_IMPLIED, OPAQUE, render_path


class Node:
    """One inode to be. ``children`` is None for what is no directory; ``place`` and ``size`` are as in erofs.Inode.
    ``number`` is given in the end."""

    __slots__ = ("children", "chunks", "gid", "links", "mode", "mtime", "number", "place", "size", "uid", "xattrs")

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, mtime: int = 0) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.size = self.place = self.links = self.number = 0
        self.xattrs: dict[str, bytes] | None = None
        self.chunks: list[int] | None = None
        self.children: dict[bytes, Node] | None = {} if stat.S_ISDIR(mode) else None

    @property
    def is_whiteout(self) -> bool:
        """Whether this is overlayfs' mark for "gone from here down": a character device 0:0."""
        return stat.S_ISCHR(self.mode) and self.place == 0

    def set_xattr(self, name: str, value: bytes) -> None:
        """Add an extended attribute, or replace it."""
        if self.xattrs is None:
            self.xattrs = {}
        self.xattrs[name] = value


def new_directory() -> Node:
    """A directory of which nothing is said yet."""
    return Node(stat.S_IFDIR | 0o755)


class ImageTree:
    """Paths are relative, of bytes, already split into checked components."""

    def __init__(self) -> None:
        self.root = new_directory()
        self.implied: dict[bytes, Node] = {b"": self.root}
        self.kept = 0
        """Bytes of the names of entries, and of the paths of implied directories."""
        self._known: tuple[list[bytes], Node] = ([], self.root)

    def directory(self, parts: list[bytes]) -> Node:
        """A directory, made (with its parents) when absent. Raises HostileLayer when a link or file is in the way."""
        if parts == self._known[0]:
            return self._known[1]
        if len(parts) > MAX_DEPTH:
            raise HostileLayer(f"the layer nests directories deeper than {MAX_DEPTH}")
        node = self.root
        for end, name in enumerate(parts, 1):
            node = self._open_child(node, name, parts[:end])
        self._known = (parts, node)
        return node

    def _open_child(self, parent: Node, name: bytes, parts: list[bytes]) -> Node:
        found = children_of(parent).get(name)
        if found is not None and found.children is not None:
            return found
        path = b"/".join(parts)
        if found is not None and not found.is_whiteout:
            raise HostileLayer(f"the layer puts files below {render_path(path)}, which is no directory")
        if len(self.implied) >= MAX_IMPLIED:
            raise HostileLayer(f"the layer leaves more than {MAX_IMPLIED} directories undescribed")
        made = self.implied[path] = children_of(parent)[name] = new_directory()
        self.kept += len(path)
        if found is not None:
            made.set_xattr(OPAQUE, b"y")
        return made

    def find(self, parts: list[bytes]) -> Node | None:
        """What is there, if all above it is, too. Raises HostileLayer when that is no directory."""
        node = self.root
        for end, name in enumerate(parts, 1):
            if name not in children_of(node):
                return None
            node = self._open_child(node, name, parts[:end]) if end < len(parts) else children_of(node)[name]
        return node

    def describe_directory(self, parts: list[bytes]) -> Node:
        """A directory that an entry describes: made, or taken over when it is there."""
        if not parts:
            self.implied.pop(b"", None)
            return self.root
        if len(parts) > MAX_DEPTH:
            raise HostileLayer(f"the layer nests directories deeper than {MAX_DEPTH}")
        parent = children_of(self.directory(parts[:-1]))
        self.implied.pop(b"/".join(parts), None)
        found = parent.get(parts[-1])
        if found is not None and found.children is not None:
            return found
        made = parent[parts[-1]] = new_directory()
        self.kept += len(parts[-1])
        if found is not None and found.is_whiteout:
            made.set_xattr(OPAQUE, b"y")
        return made

    def put(self, parts: list[bytes], node: Node) -> None:
        """Put a file in its place, and remove what is there, whole trees too."""
        children = children_of(self.directory(parts[:-1]))
        found = children.get(parts[-1])
        if found is not None and found.children is not None:
            self._forget(found, b"/".join(parts))
            self._known = ([], self.root)
        children[parts[-1]] = node
        self.kept += len(parts[-1])

    def _forget(self, node: Node, path: bytes) -> None:
        """Nothing is implied of a directory that goes, nor of those in it."""
        waiting = [(node, path)]
        while waiting:
            node, path = waiting.pop()
            self.implied.pop(path, None)
            waiting += (
                (child, path + b"/" + name) for name, child in children_of(node).items() if child.children is not None
            )

    def walk(self) -> Iterator[tuple[Node, Node]]:
        """Every directory with its parent (the root with itself), from the top."""
        waiting = [(self.root, self.root)]
        while waiting:
            node, parent = waiting.pop()
            yield node, parent
            waiting += ((child, node) for child in children_of(node).values() if child.children is not None)


def children_of(node: Node) -> dict[bytes, Node]:
    """What is in a directory."""
    assert node.children is not None
    return node.children
