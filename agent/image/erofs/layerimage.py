"""A layer's tar stream to one file: an EROFS image that overlayfs can take as a lower layer once it is mounted.

To write one file is several times as fast as to make thousands of inodes, and so is removing it; and nobody can change
what is in it. The tree is kept in memory until the end, which bounds the entries that a layer may have here.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence, Set
from pathlib import Path

from agent.image.erofs import ondisk
from agent.image.erofs.file import ImageFile
from agent.image.erofs.metadata import settle_image, write_metadata
from agent.image.erofs.tree import ImageTree
from agent.image.errors import HostileLayer, NeedsMoreRoom, UnfitForImage
from agent.image.layers.layerwriter import UNWANTED_XATTRS, LayerWriter
from agent.image.layers.rooted import OPAQUE, render_path
from agent.image.layers.tarheader import TarEntry
from agent.image.layers.tarreader import TarReader
from agent.image.limits import MAX_KEPT, UnpackLimits

MAX_ENTRIES = 24_000
_ENTRY, _IMPLIED, _ATTRIBUTE = 240, 160, 400
"""Bytes that an entry, an implied directory and an extended attribute take in memory beside names, paths and values."""
_CAPABILITY, _CAPABILITY_SIZE = "security.capability", 20
_CAPABILITY_HEADS = (b"\0\0\0\2", b"\1\0\0\2")
"""Of revision 2 (linux/capability.h), the only one that the kernel stores as it is."""


class ImageWriter(LayerWriter):
    """Writes one layer to the file ``image``, which must not exist. Raises UnfitForImage beside what others raise."""

    def __init__(self, image: Path, limits: UnpackLimits) -> None:
        super().__init__(image.parent, limits)
        self._image = image
        self._tree = ImageTree()
        self._inodes = self._tree.inodes
        self._file = ImageFile(image)
        self._kept = 0
        self.places: dict[bytes, int] = {}
        """Where in the image the inode of each implied directory is, once it is complete."""

    @property
    def implied(self) -> Set[bytes]:
        return self._tree.implied.keys()

    def settle(self, lower: Sequence[Path]) -> None:
        settle_image(self._image, sorted(self.places.items(), reverse=True), lower)

    def close(self) -> None:
        self._file.close()

    def _end_entry(self) -> None:
        implied = len(self._tree.implied)
        if self.entries + implied > MAX_ENTRIES:
            raise UnfitForImage("the layer has too many entries")
        kept = self._kept + self._tree.kept + _ENTRY * (self.entries + implied) + _IMPLIED * implied
        if kept > self.limits.kept:
            self._refuse()

    def _refuse(self) -> None:
        if self.limits.kept < MAX_KEPT:
            raise NeedsMoreRoom("the layer has many entries, or much is to be said of them")
        raise UnfitForImage("the layer has too many entries, or too much is to be said of them")

    def _finish(self) -> None:
        self.places = write_metadata(self._tree, self._file)

    def _write_directory(self, entry: TarEntry, parts: list[bytes]) -> None:
        node = self._tree.describe_directory(parts)
        self._inodes.describe(node, entry.mode, entry.uid, entry.gid, entry.mtime)
        self._add_xattrs(node, entry)

    def _write_file(self, entry: TarEntry, parts: list[bytes], reader: TarReader) -> None:
        node = self._inodes.add(stat.S_IFREG | entry.mode, entry.uid, entry.gid, entry.mtime)
        self._inodes.sizes[node] = entry.real_size
        if entry.xattrs:
            self._add_xattrs(node, entry)
        self._tree.put(parts, node)
        if entry.sparse is not None:
            self._inodes.places[node], chunks = self._file.add_sparse(entry, reader)
            self._inodes.chunks[node] = chunks
            self._kept += 4 * len(chunks)
        elif entry.size:
            self._inodes.places[node], _ = self._file.add(reader.data(entry.size))

    def _write_symlink(self, entry: TarEntry, parts: list[bytes]) -> None:
        node = self._inodes.add(stat.S_IFLNK | 0o777, entry.uid, entry.gid, entry.mtime)
        self._inodes.sizes[node] = len(entry.link)
        self._add_xattrs(node, entry)
        self._tree.put(parts, node)
        self._inodes.places[node], _ = self._file.add((entry.link,))

    def _write_node(self, entry: TarEntry, parts: list[bytes], kind: int) -> None:
        node = self._inodes.add(kind | entry.mode, entry.uid, entry.gid, entry.mtime)
        self._inodes.places[node] = ondisk.encode_device(*entry.device)
        self._add_xattrs(node, entry)
        self._tree.put(parts, node)

    def _write_link(self, entry: TarEntry, source: list[bytes], parts: list[bytes]) -> None:
        self._tree.directory(parts[:-1])
        node = self._tree.find(source)
        if node is None:
            raise HostileLayer(f"the layer links to {render_path(entry.link)}, which it does not hold")
        if self._inodes.is_directory(node) or self._inodes.is_whiteout(node):
            raise HostileLayer(f"the layer links to {render_path(entry.link)}, which is no file")
        if source[: len(parts)] == parts:
            raise HostileLayer(f"the layer replaces a directory by a link into it: {render_path(b'/'.join(parts))}")
        self._tree.put(parts, node)

    def _add_xattrs(self, node: int, entry: TarEntry) -> None:
        """Raises UnfitForImage for those that a file system checks, or changes the mode for."""
        mode = self._inodes.mode(node)
        for name, value in entry.xattrs.items():
            if name.startswith(UNWANTED_XATTRS):
                continue
            if not _is_plain(name, value, mode) and not _is_capability(name, value, mode):
                raise UnfitForImage(f"the layer has the extended attribute {name[:60]!r}")
            self._inodes.set_xattr(node, name, value)
            self._kept += _ATTRIBUTE + len(name) + len(value)
            if self._kept > self.limits.kept:
                self._refuse()

    def _mark_opaque(self, parts: list[bytes]) -> None:
        self._inodes.set_xattr(self._tree.directory(parts), OPAQUE, b"y")

    def _mark_gone(self, parts: list[bytes]) -> None:
        parent = self._tree.directory(parts[:-1])
        found = self._inodes.children(parent).get(parts[-1])
        self._kept += len(parts[-1])
        if found is None:
            self._inodes.link(parent, parts[-1], self._inodes.add(stat.S_IFCHR))
        elif self._inodes.is_directory(found):
            self._inodes.set_xattr(found, OPAQUE, b"y")


def _is_plain(name: str, value: bytes, mode: int) -> bool:
    """Whether any file system would take it as it is."""
    space, _, rest = name.partition(".")
    owned = space == "user" and (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return (owned or space == "trusted") and bool(rest) and len(value) <= ondisk.MAX_VALUE


def _is_capability(name: str, value: bytes, mode: int) -> bool:
    known = len(value) == _CAPABILITY_SIZE and value.startswith(_CAPABILITY_HEADS)
    return known and name == _CAPABILITY and stat.S_ISREG(mode)
