"""The tree of a layer image while it is made: in memory, by the same rules as ``layers.rooted`` on disk."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from agent.image.erofs.inodes import ROOT, Inodes
from agent.image.errors import HostileLayer
from agent.image.layers.rooted import MAX_DEPTH, MAX_IMPLIED, OPAQUE, render_path


class ImageTree:
    """Paths are relative, of bytes, already split into checked components; what is there is said by index."""

    def __init__(self) -> None:
        self.inodes = Inodes()
        self.inodes.add_directory()
        self.implied: dict[bytes, int] = {b"": ROOT}
        self.kept = 0
        """Bytes of the names of entries, and of the paths of implied directories."""
        self._known: tuple[list[bytes], int] = ([], ROOT)

    def directory(self, parts: list[bytes]) -> int:
        """A directory, made (with its parents) when absent. Raises HostileLayer when a link or file is in the way."""
        if parts == self._known[0]:
            return self._known[1]
        if len(parts) > MAX_DEPTH:
            raise HostileLayer(f"the layer nests directories deeper than {MAX_DEPTH}")
        node = ROOT
        for end, name in enumerate(parts, 1):
            node = self._open_child(node, name, parts[:end])
        self._known = (parts, node)
        return node

    def _open_child(self, parent: int, name: bytes, parts: list[bytes]) -> int:
        found = self.inodes.children(parent).get(name)
        if found is not None and self.inodes.is_directory(found):
            return found
        path = b"/".join(parts)
        if found is not None and not self.inodes.is_whiteout(found):
            raise HostileLayer(f"the layer puts files below {render_path(path)}, which is no directory")
        if len(self.implied) >= MAX_IMPLIED:
            raise HostileLayer(f"the layer leaves more than {MAX_IMPLIED} directories undescribed")
        made = self.implied[path] = self._make_directory(parent, name, found)
        self.kept += len(path)
        return made

    def _make_directory(self, parent: int, name: bytes, found: int | None) -> int:
        """In place of ``found``: what a whiteout hides stays hidden."""
        made = self.inodes.add_directory()
        self.inodes.link(parent, name, made)
        self.kept += len(name)
        if found is not None and self.inodes.is_whiteout(found):
            self.inodes.set_xattr(made, OPAQUE, b"y")
        return made

    def find(self, parts: list[bytes]) -> int | None:
        """What is there, if all above it is, too. Raises HostileLayer when that is no directory."""
        node = ROOT
        for end, name in enumerate(parts, 1):
            found = self.inodes.children(node).get(name)
            if found is None:
                return None
            node = self._open_child(node, name, parts[:end]) if end < len(parts) else found
        return node

    def describe_directory(self, parts: list[bytes]) -> int:
        """A directory that an entry describes: made, or taken over when it is there."""
        if not parts:
            self.implied.pop(b"", None)
            return ROOT
        if len(parts) > MAX_DEPTH:
            raise HostileLayer(f"the layer nests directories deeper than {MAX_DEPTH}")
        parent = self.directory(parts[:-1])
        self.implied.pop(b"/".join(parts), None)
        found = self.inodes.children(parent).get(parts[-1])
        if found is not None and self.inodes.is_directory(found):
            return found
        return self._make_directory(parent, parts[-1], found)

    def put(self, parts: list[bytes], node: int) -> None:
        """Put a file in its place, and remove what is there, whole trees too."""
        parent = self.directory(parts[:-1])
        found = self.inodes.children(parent).get(parts[-1])
        if found is not None and self.inodes.is_directory(found):
            self._forget(found, b"/".join(parts))
            self._known = ([], ROOT)
        self.inodes.link(parent, parts[-1], node)
        self.kept += len(parts[-1])

    def _forget(self, node: int, path: bytes) -> None:
        """Nothing is implied of a directory that goes, nor of those in it."""
        self.implied.pop(path, None)
        way = [(path, iter(self.inodes.children(node).items()))]
        while way:
            path, children = way[-1]
            for name, child in children:
                if self.inodes.is_directory(child):
                    inner = path + b"/" + name
                    self.implied.pop(inner, None)
                    way.append((inner, iter(self.inodes.children(child).items())))
                    break
            else:
                way.pop()

    def walk(self) -> Iterator[tuple[int, int]]:
        """Every directory with its parent (the root with itself), from the top."""
        parents = array("I", [ROOT]) * len(self.inodes)
        waiting = [ROOT]
        while waiting:
            node = waiting.pop()
            yield node, parents[node]
            for child in self.inodes.children(node).values():
                if self.inodes.is_directory(child):
                    parents[child] = node
                    waiting.append(child)
