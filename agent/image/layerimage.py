"""A layer's tar stream to one file: an EROFS image that overlayfs can take as a lower layer once it is mounted.

To write one file is several times as fast as to make thousands of inodes, and so is removing it; and nobody can change
what is in it. The tree is kept in memory until the end, which bounds the entries that a layer may have here.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence, Set
from pathlib import Path

from agent.image import erofs
from agent.image.errors import HostileLayer, UnfitForImage
from agent.image.imagefile import ImageFile
from agent.image.imagemetadata import settle_image, write_metadata
from agent.image.imagetree import ImageTree, Node, children_of
from agent.image.layerwriter import UNWANTED_XATTRS, LayerWriter
from agent.image.limits import UnpackLimits
from agent.image.rooted import OPAQUE, render_path
from agent.image.tarheader import TarEntry
from agent.image.tarreader import TarReader

MAX_ENTRIES = 24_000
MAX_KEPT = 4 << 20
"""Bytes of extended attributes, of names, of paths and of maps of sparse files that are kept in memory."""
_ATTRIBUTE = 128
"""Bytes that an extended attribute takes in memory beside its name and its value."""
_CAPABILITY, _CAPABILITY_SIZE = "security.capability", 20
_CAPABILITY_HEADS = (b"\0\0\0\2", b"\1\0\0\2")
"""Of revision 2 (linux/capability.h), the only one that the kernel stores as it is."""


class ImageWriter(LayerWriter):
    """Writes one layer to the file ``image``, which must not exist. Raises UnfitForImage beside what others raise."""

    def __init__(self, image: Path, limits: UnpackLimits) -> None:
        super().__init__(image.parent, limits)
        self._image = image
        self._tree = ImageTree()
        self._file = ImageFile(image)
        self._kept = 0
        self.places: dict[bytes, int] = {}
        """Where in the image the inode of each implied directory is, once it is complete."""

    @property
    def implied(self) -> Set[bytes]:
        return self._tree.implied.keys()

    def settle(self, lower: Sequence[Path]) -> None:
        settle_image(self._image, self.places, lower)

    def close(self) -> None:
        self._file.close()

    def _end_entry(self) -> None:
        if self.entries + len(self._tree.implied) > MAX_ENTRIES or self._kept + self._tree.kept > MAX_KEPT:
            raise UnfitForImage("the layer has too many entries, or too much is to be said of them")

    def _finish(self) -> None:
        self.places = write_metadata(self._tree, self._file)

    def _write_directory(self, entry: TarEntry, parts: list[bytes]) -> None:
        node = self._tree.describe_directory(parts)
        node.mode, node.uid, node.gid, node.mtime = stat.S_IFDIR | entry.mode, entry.uid, entry.gid, entry.mtime
        self._add_xattrs(node, entry)

    def _write_file(self, entry: TarEntry, parts: list[bytes], reader: TarReader) -> None:
        node = Node(stat.S_IFREG | entry.mode, entry.uid, entry.gid, entry.mtime)
        node.size = entry.real_size
        if entry.xattrs:
            self._add_xattrs(node, entry)
        self._tree.put(parts, node)
        if entry.sparse is not None:
            node.place, node.chunks = self._file.add_sparse(entry, reader)
            self._kept += 8 * len(node.chunks)
        elif entry.size:
            node.place, _ = self._file.add(reader.data(entry.size))

    def _write_symlink(self, entry: TarEntry, parts: list[bytes]) -> None:
        node = Node(stat.S_IFLNK | 0o777, entry.uid, entry.gid, entry.mtime)
        node.size = len(entry.link)
        self._add_xattrs(node, entry)
        self._tree.put(parts, node)
        node.place, _ = self._file.add((entry.link,))

    def _write_node(self, entry: TarEntry, parts: list[bytes], kind: int) -> None:
        node = Node(kind | entry.mode, entry.uid, entry.gid, entry.mtime)
        node.place = erofs.encode_device(*entry.device)
        self._add_xattrs(node, entry)
        self._tree.put(parts, node)

    def _write_link(self, entry: TarEntry, source: list[bytes], parts: list[bytes]) -> None:
        self._tree.directory(parts[:-1])
        node = self._tree.find(source)
        if node is None:
            raise HostileLayer(f"the layer links to {render_path(entry.link)}, which it does not hold")
        if node.children is not None or node.is_whiteout:
            raise HostileLayer(f"the layer links to {render_path(entry.link)}, which is no file")
        if source[: len(parts)] == parts:
            raise HostileLayer(f"the layer replaces a directory by a link into it: {render_path(b'/'.join(parts))}")
        self._tree.put(parts, node)

    def _add_xattrs(self, node: Node, entry: TarEntry) -> None:
        """Raises UnfitForImage for those that a file system checks, or changes the mode for."""
        for name, value in entry.xattrs.items():
            if name.startswith(UNWANTED_XATTRS):
                continue
            if not _is_plain(name, value, node) and not _is_capability(name, value, node):
                raise UnfitForImage(f"the layer has the extended attribute {name[:60]!r}")
            node.set_xattr(name, value)
            self._kept += _ATTRIBUTE + len(name) + len(value)
            if self._kept > MAX_KEPT:
                return

    def _mark_opaque(self, parts: list[bytes]) -> None:
        self._tree.directory(parts).set_xattr(OPAQUE, b"y")

    def _mark_gone(self, parts: list[bytes]) -> None:
        children = children_of(self._tree.directory(parts[:-1]))
        found = children.get(parts[-1])
        if found is None:
            children[parts[-1]] = Node(stat.S_IFCHR)
        elif found.children is not None:
            found.set_xattr(OPAQUE, b"y")


def _is_plain(name: str, value: bytes, node: Node) -> bool:
    """Whether any file system would take it as it is."""
    space, _, rest = name.partition(".")
    owned = space == "user" and (stat.S_ISREG(node.mode) or stat.S_ISDIR(node.mode))
    return (owned or space == "trusted") and bool(rest) and len(value) <= erofs.MAX_VALUE


def _is_capability(name: str, value: bytes, node: Node) -> bool:
    known = len(value) == _CAPABILITY_SIZE and value.startswith(_CAPABILITY_HEADS)
    return known and name == _CAPABILITY and stat.S_ISREG(node.mode)
