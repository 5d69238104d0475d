"""The end of a layer image: directories and inodes; and what is said later of directories that no entry described."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from agent.image.erofs import ondisk
from agent.image.erofs.file import ImageFile, write_at
from agent.image.erofs.inodes import ROOT
from agent.image.erofs.tree import ImageTree
from agent.image.errors import UnfitForImage
from agent.image.layers.implied import LowerLayers, too_much_said
from agent.image.layers.rooted import OPAQUE

RESERVED = 4608
"""Bytes kept free behind the inode of an implied directory, for the extended attributes of the layers below."""
_FIRST = 2
"""The number of the root's inode: none is zero, and the next slots are free for it."""


class _Layout:
    """The number of each inode and of its links, and the order in which inodes are written."""

    def __init__(self, tree: ImageTree) -> None:
        self._inodes = tree.inodes
        self.numbers = array("Q", bytes(8 * len(tree.inodes)))
        self.links = array("I", bytes(4 * len(tree.inodes)))
        self.order = array("I")
        self.end = _FIRST
        self.implied = {node: path for path, node in tree.implied.items()}
        self._add(ROOT)
        for directory, _ in tree.walk():
            self.links[directory] += 2
            for child in tree.inodes.children(directory).values():
                if not self.numbers[child]:
                    self._add(child)
                if tree.inodes.is_directory(child):
                    self.links[directory] += 1
                else:
                    self.links[child] += 1

    def _add(self, node: int) -> None:
        size = ondisk.INODE_SIZE + len(self.encode_xattrs(node)) + RESERVED * (node in self.implied)
        size += 4 * len(self._inodes.chunks.get(node, ()))
        self.numbers[node] = self.end
        self.end += -(-size // ondisk.SLOT)
        self.order.append(node)

    def encode_xattrs(self, node: int) -> bytes:
        """Raises UnfitForImage."""
        try:
            return ondisk.encode_xattrs(self._inodes.xattrs.get(node, {}))
        except ondisk.Unencodable as error:
            raise UnfitForImage(f"the layer has a file with {error}") from error

    def list_directory(self, node: int, parent: int) -> Iterator[tuple[bytes, int, int]]:
        """What ondisk.encode_directory takes."""
        children = self._inodes.children(node)
        here = {b".": node, b"..": parent}
        for name in sorted((*here, *children)):
            entry = here[name] if name in here else children[name]
            yield name, self.numbers[entry], self._inodes.mode(entry)


def write_metadata(tree: ImageTree, file: ImageFile) -> dict[bytes, int]:
    """Complete the image; returns where in it the inode of each implied directory is. Raises UnfitForImage,
    OSError."""
    layout, inodes = _Layout(tree), tree.inodes
    for directory, parent in tree.walk():
        block, size = file.add(ondisk.encode_directory(layout.list_directory(directory, parent)))
        inodes.places[directory], inodes.sizes[directory] = block, size
    first, places = file.position, {}
    for node in layout.order:
        number = layout.numbers[node]
        file.skip_to(first + number * ondisk.SLOT)
        if node in layout.implied:
            places[layout.implied[node]] = file.position
        inode = inodes.render(node, layout.links[node])
        file.append(ondisk.encode_inode(inode, layout.encode_xattrs(node), number))
        if node in inodes.chunks:
            file.append(ondisk.encode_chunks(inodes.chunks[node]))
    file.skip_to(first + layout.end * ondisk.SLOT)
    file.finish(first >> ondisk.BLOCK_BITS, _FIRST, len(layout.order))
    return places


def settle_image(image: Path, places: Iterable[tuple[bytes, int]], lower: Sequence[Path]) -> None:
    """Give each implied directory of a complete image, those within it first, what the layers below say of it.

    Raises HostileLayer, OSError.
    """
    fd = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        layers = LowerLayers(lower)
        for path, place in places:
            said = layers.find_attributes(path)
            inode, number, opaque = ondisk.decode_inode(os.pread(fd, ondisk.INODE_SIZE, place))
            xattrs = _encode_adopted(path, {**said.xattrs, **({OPAQUE: b"y"} if opaque else {})})
            mode = stat.S_IFDIR | said.mode
            inode = inode._replace(mode=mode, uid=said.uid, gid=said.gid, mtime=said.mtime)
            write_at(fd, ondisk.encode_inode(inode, xattrs, number), place)
    finally:
        os.close(fd)


def _encode_adopted(path: bytes, xattrs: Mapping[str, bytes]) -> bytes:
    try:
        encoded = ondisk.encode_xattrs({name: value for name, value in xattrs.items() if ondisk.has_namespace(name)})
    except ondisk.Unencodable:
        encoded = bytes(RESERVED + 1)
    if len(encoded) > RESERVED:
        raise too_much_said(path)
    return encoded
